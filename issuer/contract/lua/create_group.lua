-- Creates the consumer group of a partition's stream where it is missing, and the stream with it.
--
-- Why a script: the group may be created only in the data set that carries the epoch.
--
-- KEYS: 1 state, 2 stream
-- ARGV: 1 epoch, 2 group
-- Returns: {STALE_EPOCH, epoch} | {CREATED} | {DONE}
-- Cost: 4 commands.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
-- A read that fails when the key is not a stream: the failure must come here, before the first write.
redis.call('XLEN', KEYS[2])
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
-- From 0: every entry that is in the stream is delivered, again if it was before. The ledger has it once all the same.
-- pcall: the group may exist.
local created = redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0', 'MKSTREAM')
if created.err then return {'DONE'} end
return {'CREATED'}
