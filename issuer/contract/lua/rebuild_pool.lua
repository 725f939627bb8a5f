-- Resets a pool to what Postgres knows of it; its codes are loaded again behind `issued`.
--
-- Why a script: list and counters must change together. It runs only on a partition that this very recovery has fenced
-- off: a recovery that has lost its lock knows less than its successor.
--
-- KEYS: 1 state, 2 pool, 3 codes
-- ARGV: 1 epoch of the fence (negative), 2 pool id, 3 issued, 4 total
-- Returns: {NOT_FENCED, epoch} | {STALE_EPOCH, epoch} | {DONE}
-- Cost: 3 commands.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or tonumber(epoch) >= 0 then return {'NOT_FENCED', epoch or ''} end
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch} end
-- UNLINK first: it is allowed when memory is short, and behind it no write is refused.
redis.call('UNLINK', KEYS[3])
redis.call('HSET', KEYS[2], 'id', ARGV[2], 'issued', ARGV[3], 'loaded', ARGV[3], 'total', ARGV[4])
return {'DONE'}
