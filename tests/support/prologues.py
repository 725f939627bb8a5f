"""Lua that stands before a script's text and changes what the script meets. The scripts know nothing of it."""

from __future__ import annotations

from typing import Final

_CLOCK: Final = """local real = redis
local redis = setmetatable({call = function(name, ...)
  if name ~= 'TIME' then return real.call(name, ...) end
  local ms = tonumber(real.call('GET', '%s'))
  return {string.format('%%.0f', math.floor(ms / 1000)), string.format('%%.0f', ms %% 1000 * 1000)}
end}, {__index = real})
"""

_BREAK: Final = """local real, left = redis, %d
local reads = {HGET = 1, HMGET = 1, GET = 1, MGET = 1, EXISTS = 1, LRANGE = 1, LLEN = 1, XLEN = 1, TIME = 1}
local redis = setmetatable({call = function(name, ...)
  if not reads[name] then
    if left == 0 then error('broken off') end
    left = left - 1
  end
  return real.call(name, ...)
end}, {__index = real})
"""

_RECORD: Final = """local real = redis
local function recorded(run)
  return function(name, ...)
    real.call('RPUSH', '%s', name)
    return run(name, ...)
  end
end
local redis = setmetatable({call = recorded(real.call), pcall = recorded(real.pcall)}, {__index = real})
"""


def frozen_clock(key: str) -> str:
    """Return a prologue under which TIME is the value of `key`, in ms."""
    return _CLOCK % key


def broken_off(writes: int) -> str:
    """Return a prologue under which a script fails after that many writes, as if the next one had been refused."""
    return _BREAK % writes


def recorded(key: str) -> str:
    """Return a prologue under which a script appends the name of every command that it runs to the list `key`."""
    return _RECORD % key
