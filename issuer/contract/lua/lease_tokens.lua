-- Takes tokens from a token bucket: as a lease for a process that will spend them, or as a charge for a past event.
--
-- Why a script: a bucket is read and written in one step, by the server's clock, however many processes take from it.
-- It needs no epoch: nothing but tokens depends on a bucket, and a lost bucket counts as a full one.
--
-- KEYS: 1 bucket
-- ARGV: 1 µs from one token to the next, 2 µs in which an empty bucket fills, 3 µs that the bucket lacks at least
--       (what flows in during a lease), 4 µs by which its balance may be negative, 5 tokens wanted. If the balance may
--       be negative, all of them are taken, granted or not; otherwise only those that are granted.
-- Returns: {DONE, tokens granted, tokens left, µs until there is one more than now}
-- Cost: 3 commands, 2 when nothing is taken.

local interval, fills, lack = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local debt, wanted = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- The key holds the time at which the bucket is full again; a full bucket has no key. A clock that stepped back and a
-- limit that was lowered make no caller wait longer than an empty bucket with the largest negative balance does.
local kept = tonumber(redis.call('GET', KEYS[1]) or now)
local full_at = math.max(now + lack, math.min(kept, now + fills + debt))
local free = math.max(0, math.floor((now + fills - full_at) / interval + 0.000001))
local granted = math.min(wanted, free)
local taken = debt > 0 and wanted or granted
if taken > 0 or full_at < kept then
  -- Rounded up, and kept a ms longer than it matters: rounding never creates a token.
  full_at = math.ceil(full_at + taken * interval)
  local ttl_ms = math.ceil((full_at - now) / 1000) + 1
  redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', string.format('%.0f', ttl_ms))
end
local left = free - granted
return {'DONE', granted, left, math.max(0, math.ceil(full_at - fills - now + (left + 1) * interval))}
