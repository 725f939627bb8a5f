-- Takes tokens out of a token bucket: for a process that will spend them, or for something that has happened already.
--
-- Why a script: a bucket is read and written in one step, by the server's clock, however many processes take from it.
-- It needs no epoch: a bucket is worth nothing but its tokens, and one that is lost is a full one.
--
-- KEYS: 1 bucket
-- ARGV: 1 µs from one token to the next, 2 µs in which the empty bucket fills, 3 µs that the bucket lacks if it does
-- not lack more, 4 µs of debt that it may have, 5 tokens wanted. With debt all of them are taken, given or not; without
-- it only what is given.
-- Returns: {DONE, tokens given, tokens left, µs until there is one more than now}
-- Cost: three commands, two when nothing is taken.

local interval, fills, lack = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local debt, wanted = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- Kept is the time at which the bucket will be full again; a full one is not kept. No clock that stepped back and no
-- limit that was lowered makes anybody wait longer than an empty bucket in debt does.
local kept = tonumber(redis.call('GET', KEYS[1]) or now)
local full_at = math.max(now + lack, math.min(kept, now + fills + debt))
local free = math.max(0, math.floor((now + fills - full_at) / interval + 0.000001))
local given = math.min(wanted, free)
local taken = debt > 0 and wanted or given
if taken > 0 or full_at < kept then
  -- Rounded up, and a ms longer than it matters: no token comes of rounding.
  full_at = math.ceil(full_at + taken * interval)
  local life_ms = math.ceil((full_at - now) / 1000) + 1
  redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', string.format('%.0f', life_ms))
end
return {'DONE', given, free - given, math.max(0, math.ceil(full_at - fills - now + (free - given + 1) * interval))}
