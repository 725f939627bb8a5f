-- Makes a partition usable under a new epoch, or (epoch 0) fences it off while it is being recovered.
--
-- Why a script: state and consumer group appear together; nobody sees one without the other.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 key format, 3 max_backlog, 4 backlog (redemptions in the stream), 5 group
-- Returns: {STALE_EPOCH, epoch} | {DONE}
-- Cost: six commands.

-- A recovery that was stopped for a while and has lost its lock meanwhile must not undo what came after it.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if ARGV[1] ~= '0' and epoch and tonumber(epoch) > tonumber(ARGV[1]) then return {'STALE_EPOCH', epoch} end
-- A stream key of another type must fail here, before the first write.
redis.call('XLEN', KEYS[2])
redis.call('HSETNX', KEYS[1], 'clock', '0')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'key_format', ARGV[2], 'max_backlog', ARGV[3], 'backlog', ARGV[4])
-- Survives a fence: tells a recovery which incarnation these data come from.
if ARGV[1] ~= '0' then redis.call('HSET', KEYS[1], 'blessed_epoch', ARGV[1]) end
-- From 0: what was in the stream before the group must be delivered too. BUSYGROUP: the group is there.
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[5], '0', 'MKSTREAM')
return {'DONE'}
