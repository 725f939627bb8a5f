-- Sets a pool back to what Postgres knows of it; its codes are loaded again behind `issued`.
--
-- Why a script: list and counters must change together. Only for a partition that is fenced off (epoch 0).
--
-- KEYS: 1 state, 2 pool, 3 codes
-- ARGV: 1 pool id, 2 issued, 3 total
-- Returns: {NOT_FENCED, epoch} | {DONE}
-- Cost: three commands.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= '0' then return {'NOT_FENCED', epoch or ''} end
redis.call('HSET', KEYS[2], 'id', ARGV[1], 'issued', ARGV[2], 'loaded', ARGV[2], 'total', ARGV[3])
redis.call('UNLINK', KEYS[3])
return {'DONE'}
