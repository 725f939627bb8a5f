-- Removes consumers that have been idle for long and have nothing pending, so that restarts do not pile them up.
--
-- Why a script: entries may be delivered to a consumer between the check and the removal, and XGROUP DELCONSUMER would
-- drop them.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 group, 3 idle_ms (how long a consumer must have been idle)
-- Returns: {STALE_EPOCH, epoch} | {DONE, removed}
-- Cost: 2 commands, and 1 for each consumer that it removes.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end

local idle = {}
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], ARGV[2])) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then idle[#idle + 1] = consumer.name end
end
for _, name in ipairs(idle) do redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[2], name) end
return {'DONE', tostring(#idle)}
