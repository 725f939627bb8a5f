-- Changes the bound of a partition's backlog.
--
-- Why a script: the bound may be changed only in the data set that carries the epoch, and the backlog that the caller
-- relies on must be the one under the new bound.
--
-- KEYS: 1 state
-- ARGV: 1 epoch, 2 max_backlog
-- Returns: {STALE_EPOCH, epoch} | {DONE, backlog}
-- Cost: 3 commands.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'backlog')
if state[1] ~= ARGV[1] then return {'STALE_EPOCH', state[1] or ''} end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[1], 'max_backlog', ARGV[2])
return {'DONE', state[2]}
