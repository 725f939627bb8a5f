-- Takes uses that were given back out of the windows of their customers, so that the limits count them no more.
--
-- Why a script: a consumption may write the same window between the look and the write. To repeat it changes nothing:
-- it is told how many uses of that time stay, not how many go.
--
-- KEYS: 1 state, then windows (one may be named several times)
-- ARGV: 1 epoch, then for each window the time of the use (13 digits of ms) and how many uses of that time stay
-- Returns: {STALE_EPOCH, epoch} | {DONE, times taken out}
-- Cost: two commands a window.

local STAMP = 13
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local taken_out = 0
for w = 2, #KEYS do
  local log, stamp, stay = redis.call('GET', KEYS[w]) or '', ARGV[2 * w - 2], tonumber(ARGV[2 * w - 1])
  local rest, same = {}, 0
  for at = 1, #log, STAMP do
    local there = string.sub(log, at, at + STAMP - 1)
    if there == stamp then same = same + 1 end
    if there ~= stamp or same <= stay then rest[#rest + 1] = there end
  end
  if same > stay then
    -- An empty window is as good as none, and goes by its own time.
    redis.call('SET', KEYS[w], table.concat(rest), 'KEEPTTL')
    taken_out = taken_out + same - stay
  end
end
return {'DONE', tostring(taken_out)}
