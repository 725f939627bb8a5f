-- Removes events that are in the ledger from the stream and subtracts them from the backlog.
--
-- Why a script: XACK, XDEL and the backlog counter must agree, also when the call is repeated or two workers
-- acknowledge the same entries. Only what this very call removed is subtracted.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 group, then for each entry: stream id, redemptions in it
-- Returns: {STALE_EPOCH, epoch} | {DONE, entries removed, redemptions removed}
-- Cost: 3 commands, and 2 for each entry.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local backlog = tonumber(redis.call('HGET', KEYS[1], 'backlog'))

-- Every argument is checked before the first write: a script that fails in the middle is not rolled back, and entries
-- that left the stream without being subtracted would fill the backlog for good.
for i = 4, #ARGV, 2 do
  if not tonumber(ARGV[i]) then return redis.error_reply('ERR not a number of redemptions: ' .. ARGV[i]) end
end

-- Should the server stop inside the loop, its data set has all of this call's writes or none: the append-only file gets
-- them as one transaction. In the latter case the worker acknowledges again.
local entries, redemptions = 0, 0
for i = 3, #ARGV, 2 do
  redis.call('XACK', KEYS[2], ARGV[2], ARGV[i])
  if redis.call('XDEL', KEYS[2], ARGV[i]) == 1 then
    entries = entries + 1
    redemptions = redemptions + tonumber(ARGV[i + 1])
  end
end
redis.call('HSET', KEYS[1], 'backlog', string.format('%.0f', math.max(0, backlog - redemptions)))
return {'DONE', tostring(entries), string.format('%.0f', redemptions)}
