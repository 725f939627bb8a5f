-- Makes a partition usable under a new epoch or, with a negative epoch, fences it off while it is recovered.
--
-- Why a script: state and consumer group appear together; no process may see one without the other. And two
-- installations that were given the same server must not both take it for their own.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch (negative: the fence before that epoch), 2 key format, 3 max_backlog, 4 backlog (redemptions in the
--       stream; a fence leaves a higher one, which shows that the stream was cut), 5 group, 6 installation, 7 serial,
--       8 beat (both are raised to these, never lowered), 9 token of the commit that fenced
-- Returns: {FOREIGN, installation} | {STALE_EPOCH, epoch} | {DONE}
-- Cost: 6 commands, 5 for a fence.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'installation', 'backlog', 'clock', 'serial', 'beat')
if state[2] and state[2] ~= ARGV[6] then return {'FOREIGN', state[2]} end
-- A recovery that was suspended and has lost its lock must not undo the work of its successor.
local epoch = tonumber(ARGV[1])
if state[1] and math.abs(tonumber(state[1])) > math.abs(epoch) then return {'STALE_EPOCH', state[1]} end
-- A read that fails when the key is not a stream: the failure must come here, before the first write.
redis.call('XLEN', KEYS[2])
local serial = string.format('%.0f', math.max(tonumber(state[5] or 0), tonumber(ARGV[7])))
local beat = string.format('%.0f', math.max(tonumber(state[6] or 0), tonumber(ARGV[8])))
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
local backlog = epoch < 0 and math.max(tonumber(state[3] or 0), tonumber(ARGV[4])) or tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'key_format', ARGV[2], 'max_backlog', ARGV[3],
  'backlog', string.format('%.0f', backlog), 'installation', ARGV[6], 'clock', state[4] or '0', 'serial', serial,
  'beat', beat, 'lineage', ARGV[9])
-- A fence leaves this field as it is: it shows a recovery from which incarnation the data come.
if epoch > 0 then redis.call('HSET', KEYS[1], 'blessed_epoch', ARGV[1]) end
-- From 0: entries that were in the stream before the group must be delivered as well. pcall: the group may exist.
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[5], '0', 'MKSTREAM')
return {'DONE'}
