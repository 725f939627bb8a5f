-- Writes the token of a commit in Postgres to a partition, and returns the token that it replaces.
--
-- Why a script: the token must not be written to another data set than the one that was blessed.
--
-- KEYS: 1 state
-- ARGV: 1 epoch, 2 token
-- Returns: {STALE_EPOCH, epoch} | {DONE, token replaced or ''}
-- Cost: 3 commands.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'lineage')
if state[1] ~= ARGV[1] then return {'STALE_EPOCH', state[1] or ''} end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[1], 'lineage', ARGV[2])
return {'DONE', state[2] or ''}
