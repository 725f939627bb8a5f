-- Makes a partition usable under a new epoch, or (a negative one) fences it off while it is being recovered.
--
-- Why a script: state and consumer group appear together; nobody sees one without the other. Nor must two
-- installations that were given the same server both take it for theirs.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch (negative: the fence before that epoch), 2 key format, 3 max_backlog, 4 backlog (redemptions in the
--       stream), 5 group, 6 installation
-- Returns: {FOREIGN, installation} | {STALE_EPOCH, epoch} | {DONE}
-- Cost: six commands.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'installation')
if state[2] and state[2] ~= ARGV[6] then return {'FOREIGN', state[2]} end
-- A recovery that was stopped for a while and has lost its lock meanwhile must not undo what came after it.
local epoch = tonumber(ARGV[1])
if state[1] and math.abs(tonumber(state[1])) > math.abs(epoch) then return {'STALE_EPOCH', state[1]} end
-- A stream key of another type must fail here, before the first write.
redis.call('XLEN', KEYS[2])
redis.call('HSETNX', KEYS[1], 'clock', '0')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'key_format', ARGV[2], 'max_backlog', ARGV[3], 'backlog', ARGV[4],
  'installation', ARGV[6])
-- Survives a fence: tells a recovery which incarnation these data come from.
if epoch > 0 then redis.call('HSET', KEYS[1], 'blessed_epoch', ARGV[1]) end
-- From 0: what was in the stream before the group must be delivered too. BUSYGROUP: the group is there.
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[5], '0', 'MKSTREAM')
return {'DONE'}
