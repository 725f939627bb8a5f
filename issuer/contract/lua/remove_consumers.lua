-- Removes consumers that are long gone and have nothing pending, so that their number does not grow with restarts.
--
-- Why a script: between a look at a consumer and its removal it may be given entries, and those would be dropped.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 group, 3 idle_ms (how long it must have been silent)
-- Returns: {STALE_EPOCH, epoch} | {DONE, removed}
-- Cost: one look at the consumers, one command for each that goes.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end

local gone = {}
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], ARGV[2])) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then gone[#gone + 1] = consumer.name end
end
for _, name in ipairs(gone) do redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[2], name) end
return {'DONE', tostring(#gone)}
