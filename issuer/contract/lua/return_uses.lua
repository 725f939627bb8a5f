-- Removes reversed uses from the windows of their customers, so that the limits no longer count them.
--
-- Why a script: a consumption may write the same window between the read and the write. A repeat changes nothing: the
-- arguments state how many uses of a time stay, not how many are removed.
--
-- KEYS: 1 state, then windows (the same window may be named several times)
-- ARGV: 1 epoch, then for each window the time of the use (13 digits of ms) and how many uses of that time stay
-- Returns: {STALE_EPOCH, epoch} | {DONE, times removed}
-- Cost: 2 commands, and 1 or 2 for each window.

local STAMP = 13
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
local removed = 0
for w = 2, #KEYS do
  local log, stamp, stay = redis.call('GET', KEYS[w]) or '', ARGV[2 * w - 2], tonumber(ARGV[2 * w - 1])
  local rest, same = {}, 0
  for at = 1, #log, STAMP do
    local entry = string.sub(log, at, at + STAMP - 1)
    if entry == stamp then same = same + 1 end
    if entry ~= stamp or same <= stay then rest[#rest + 1] = entry end
  end
  if same > stay then
    -- An empty window counts like a missing one, and expires at its own time.
    redis.call('SET', KEYS[w], table.concat(rest), 'KEEPTTL')
    removed = removed + same - stay
  end
end
return {'DONE', tostring(removed)}
