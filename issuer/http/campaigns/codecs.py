"""Encode the messages of the coupon service as ProtoJSON and as binary, long ones in parts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from issuer.campaigns.campaign import InvalidCampaignError
from issuer.http.rpc.coupon.coupon_pb2 import GetCampaignResponse, IssueCouponRequest
from issuer.http.strict_json import parse_object, without_mark
from issuer.instants import OutOfBoundsError, instant_of_timestamp


@dataclass(frozen=True, slots=True)
class EncodedMessage:
    """A message that was encoded in parts."""

    data: bytes


class BinaryCodec:
    """The codec of the library, extended by messages that are already encoded."""

    def __init__(self, codec: Codec[Any, Any] | None = None) -> None:
        self._codec = codec or google_protobuf_binary_codec()

    def name(self) -> str:
        return self._codec.name()

    def encode(self, message: Message | EncodedMessage) -> bytes:
        return message.data if isinstance(message, EncodedMessage) else self._encode(message)

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        return self._codec.decode(data, message_class)

    def _encode(self, message: Message) -> bytes:
        return self._codec.encode(message)


class JsonCodec(BinaryCodec):
    """ProtoJSON that includes empty fields, as clients of this service expect."""

    def __init__(self) -> None:
        super().__init__(google_protobuf_json_codec())

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        text = bytes(data)
        if message_class is IssueCouponRequest:
            return IssueCouponRequest(campaign_id=read_campaign_id(text, json=True))
        # The library alone would read a list or a string as a message without fields.
        parse_object(text)
        return super().decode(without_mark(text), message_class)

    def _encode(self, message: Message) -> bytes:
        return to_json(message)


def read_campaign_id(body: bytes, *, json: bool) -> str:
    """Return the campaign that an IssueCouponRequest names; empty where it names none. Raises ValueError."""
    if not json:
        try:
            return IssueCouponRequest.FromString(body).campaign_id
        except DecodeError as error:
            raise ValueError(str(error)) from error
    fields = parse_object(body)
    # ProtoJSON accepts either name, and null means the same as an absent field.
    campaign_id, other = fields.get("campaignId"), fields.get("campaign_id")
    if campaign_id is None:
        campaign_id = other
    elif other is not None:
        raise ValueError("campaignId is given twice")
    if campaign_id is None:
        return ""
    if type(campaign_id) is not str:
        raise ValueError("campaignId must be a string")
    return campaign_id


def to_json(message: Message) -> bytes:
    """Return a message as ProtoJSON, its fields in the order of the .proto file, empty ones included."""
    values = MessageToDict(message, always_print_fields_with_no_presence=True)
    names = [field.json_name for field in message.DESCRIPTOR.fields]
    return orjson.dumps({name: values[name] for name in names if name in values})


def encode_codes(codes: list[str], *, json: bool) -> bytes:
    """Encode a part of the field `issued_codes`."""
    return orjson.dumps(codes)[1:-1] if json else GetCampaignResponse(issued_codes=codes).SerializeToString()


def join_message(head: GetCampaignResponse, parts: list[bytes], *, json: bool) -> bytes:
    """Return one message from a head without codes and the encoded parts of its codes."""
    if not json:
        # Concatenated binary messages are one message: repeated fields are appended.
        return b"".join((head.SerializeToString(), *parts))
    # `issued_codes` is the last field.
    return b"".join((to_json(head).removesuffix(b"]}"), b",".join(filter(None, parts)), b"]}"))


def instant_of(timestamp: Timestamp) -> datetime:
    """Convert a timestamp to an instant. Raises InvalidCampaignError if it is out of range."""
    try:
        return instant_of_timestamp(timestamp.seconds, timestamp.nanos)
    except OutOfBoundsError as error:
        raise InvalidCampaignError(f"start_time: {error}") from error


def timestamp_of(instant: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp
