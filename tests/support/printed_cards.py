"""Read printed cards back: render a page as a scanner sees it, and decode what is on it."""

from __future__ import annotations

from typing import Final

import pypdfium2
import zxingcpp

DPI: Final = 150


def read_cards(pdf: bytes, page: int) -> dict[str, list[str]]:
    """Return the texts of the QR codes and of the barcodes of a page, as `QR Code` and `Code 128`, sorted."""
    document = pypdfium2.PdfDocument(pdf)
    try:
        image = document[page].render(scale=DPI / 72, grayscale=True).to_numpy()
        found: dict[str, list[str]] = {}
        for code in sorted(zxingcpp.read_barcodes(image), key=lambda code: code.text):
            found.setdefault(str(code.format), []).append(code.text)
        return found
    finally:
        document.close()


def count_pages(pdf: bytes) -> int:
    """Return how many pages a PDF has."""
    document = pypdfium2.PdfDocument(pdf)
    try:
        return len(document)
    finally:
        document.close()
