-- Removes events that are in the ledger from the stream and gives their room in the backlog back.
--
-- Why a script: XACK, XDEL and the backlog counter must agree, whoever repeats or shares the work; only what this
-- call really removed is given back.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 group, then for each entry: stream id, redemptions in it
-- Returns: {STALE_EPOCH, epoch} | {DONE, entries removed, redemptions removed}
-- Cost: two commands an entry.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local backlog = tonumber(redis.call('HGET', KEYS[1], 'backlog'))

-- After the first write nothing may fail.
for i = 4, #ARGV, 2 do
  if not tonumber(ARGV[i]) then return redis.error_reply('ERR not a number of redemptions: ' .. ARGV[i]) end
end

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
