-- Removes events that are in the ledger from the stream and subtracts them from the backlog.
--
-- Why a script: XACK, XDEL and the backlog counter must agree, also when the call is repeated or two workers
-- acknowledge the same entries. Only what this very call removed is subtracted. The token of the commit that recorded
-- the events takes their place: a Postgres that loses the commit does not know the token.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 group, 3 token, then for each entry: stream id, redemptions in it
-- Returns: {STALE_EPOCH, epoch} | {DONE, entries removed, redemptions removed, token replaced or ''}
-- Cost: 2 commands, and 2 for each entry.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'backlog', 'lineage')
if state[1] ~= ARGV[1] then return {'STALE_EPOCH', state[1] or ''} end
local backlog = tonumber(state[2])

-- Every argument is checked before the first write: a script that fails in the middle is not rolled back, and entries
-- that left the stream without being subtracted would fill the backlog for good.
for i = 5, #ARGV, 2 do
  if not tonumber(ARGV[i]) then return redis.error_reply('ERR not a number of redemptions: ' .. ARGV[i]) end
end

-- Should the server stop inside the loop, its data set has all of this call's writes or none: the append-only file gets
-- them as one transaction. In the latter case the worker acknowledges again.
local entries, redemptions = 0, 0
for i = 4, #ARGV, 2 do
  redis.call('XACK', KEYS[2], ARGV[2], ARGV[i])
  if redis.call('XDEL', KEYS[2], ARGV[i]) == 1 then
    entries = entries + 1
    redemptions = redemptions + tonumber(ARGV[i + 1])
  end
end
redis.call('HSET', KEYS[1], 'backlog', string.format('%.0f', math.max(0, backlog - redemptions)), 'lineage', ARGV[3])
return {'DONE', tostring(entries), string.format('%.0f', redemptions), state[3] or ''}
