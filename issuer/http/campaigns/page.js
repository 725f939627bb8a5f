"use strict";
const element = (id) => document.getElementById(id);
const initial = JSON.parse(element("data").textContent);
const texts = JSON.parse(element("texts").textContent);
const LANGUAGE = document.documentElement.lang;
const SECTIONS = ["before", "open", "claimed", "sold_out", "paused", "ended"];
const STORAGE_KEY = "issuer:campaign:" + initial.id;
const MAX_ATTEMPTS = 8;

// What this browser stores about the campaign: its idempotency key and, once issued, its code.
function loadStored() {
  try { return JSON.parse(localStorage.getItem(STORAGE_KEY)) || {}; } catch { return {}; }
}
function store(values) {
  stored = {...stored, ...values};
  // Without local storage the values last as long as this page.
  try { localStorage.setItem(STORAGE_KEY, JSON.stringify(stored)); } catch { }
}
let stored = loadStored();
let latest = initial;
let shown = "";
let claiming = false;

// The offset of the server's clock from the monotonic clock of this device. Network delay only makes a measured offset
// too small, so the largest one is the best.
let offset = -Infinity;
function update(message) {
  if (!message.now) { return; }
  offset = Math.max(offset, Date.parse(message.now) - performance.now());
  latest = {...latest, ...message};
}
const serverNow = () => offset + performance.now();

function state() {
  if (stored.code) { return "claimed"; }
  if (latest.state === "before" && serverNow() >= Date.parse(latest.starts_at)) { return "open"; }
  return SECTIONS.includes(latest.state) ? latest.state : "paused";
}
function setNote(text) {
  if (element("note").textContent !== text) { element("note").textContent = text; }
}
function show() {
  const now = state();
  if (now !== shown) {
    for (const name of SECTIONS) { element(name).hidden = name !== now; }
    // Announce the change to screen readers.
    if (shown) { element("announcement").textContent = now === "claimed" ? "" : texts[now] || ""; }
    if (now !== "claimed") { setNote(""); }
    shown = now;
  }
  const number = new Intl.NumberFormat(LANGUAGE);
  if (now === "before") { showCountdown(Math.max(0, Date.parse(latest.starts_at) - serverNow())); }
  if (now === "claimed") { element("code").textContent = stored.code; }
  if (typeof latest.remaining === "number") {
    element("left").textContent = texts.left
      .replace("{remaining}", number.format(latest.remaining)).replace("{total}", number.format(latest.total));
    element("bar").max = latest.total;
    element("bar").value = latest.remaining;
  }
  const all = texts.all_gone.replace("{total}", number.format(latest.total));
  element("gone").textContent = latest.total === 1 ? texts.only_gone : all;
}
function showCountdown(ms) {
  const seconds = Math.ceil(ms / 1000);
  const two = (value) => String(value).padStart(2, "0");
  element("days").textContent = Math.floor(seconds / 86400);
  element("hours").textContent = two(Math.floor(seconds / 3600) % 24);
  element("minutes").textContent = two(Math.floor(seconds / 60) % 60);
  element("seconds").textContent = two(seconds % 60);
  const start = new Date(latest.starts_at);
  element("start").dateTime = latest.starts_at;
  element("start").textContent = start.toLocaleString(LANGUAGE, {dateStyle: "medium", timeStyle: "medium"});
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
async function requestCode() {
  // The same key in every attempt: a repeated request returns the same code.
  if (!stored.key) { store({key: newKey()}); }
  const response = await fetch("/coupon.CouponService/IssueCoupon", {
    method: "POST", cache: "no-store", signal: AbortSignal.timeout(10000),
    headers: {"Content-Type": "application/json", "Connect-Protocol-Version": "1", "Idempotency-Key": stored.key},
    body: JSON.stringify({campaignId: initial.id}),
  });
  if (response.status === 200) { return response.json(); }
  throw new Error(String(response.status));
}
async function claim() {
  if (claiming) { return; }
  claiming = true;
  element("claim").disabled = true;
  setNote(texts.waiting);
  try {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      try {
        const result = await requestCode();
        if (result.code) {
          store({code: result.code});
          show();
          setNote(texts.claimed);
          element("code").focus();
          return;
        }
        if (result.error !== "not started") {
          const states = {"sold out": "sold_out", "paused": "paused", "ended": "ended", "not found": "ended"};
          latest = {...latest, state: states[result.error] || "paused"};
          show();
          return;
        }
      } catch { setNote(texts.busy); }
      await pause(200 * attempt + 400 * Math.random());
    }
    setNote(texts.failed);
  } finally {
    claiming = false;
    element("claim").disabled = false;
  }
}
async function copy() {
  try {
    await navigator.clipboard.writeText(stored.code);
    setNote(texts.copied);
  } catch {
    getSelection().selectAllChildren(element("code"));
    setNote(texts.selected);
  }
}

function listen() {
  const source = new EventSource("/api/v1/campaigns/" + initial.id + "/events");
  source.addEventListener("counters", (event) => {
    const message = JSON.parse(event.data);
    update(message);
    show();
    if (message.state === "ended") { source.close(); }
  });
  source.addEventListener("error", () => {
    // The browser reconnects on its own unless the server refused the request.
    if (source.readyState === EventSource.CLOSED) { setTimeout(listen, 10000 + 20000 * Math.random()); }
  });
}

element("claim").addEventListener("click", claim);
element("copy").addEventListener("click", copy);
update(initial);
show();
setInterval(show, 100);
listen();
