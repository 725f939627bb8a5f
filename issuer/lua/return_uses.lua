-- Takes uses that were given back out of the windows of their customers, so that the limits count them no more.
--
-- Why a script: a consumption may write the same window between the look and the write.
--
-- KEYS: 1 state, then windows (one may be named several times)
-- ARGV: 1 epoch, then for each window the time of the use (13 digits of ms)
-- Returns: {STALE_EPOCH, epoch} | {DONE, times taken out}
-- Cost: two commands a window.

local STAMP = 13
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local taken_out = 0
for w = 2, #KEYS do
  local log, stamp = redis.call('GET', KEYS[w]) or '', ARGV[w]
  for at = 1, #log, STAMP do
    if string.sub(log, at, at + STAMP - 1) == stamp then
      -- An empty window is as good as none, and goes by its own time.
      redis.call('SET', KEYS[w], string.sub(log, 1, at - 1) .. string.sub(log, at + STAMP), 'KEEPTTL')
      taken_out = taken_out + 1
      break
    end
  end
end
return {'DONE', tostring(taken_out)}
