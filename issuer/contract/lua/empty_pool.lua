-- Deletes the codes that a pool of an ended batch still has in Redis; what replays need of the pool stays.
--
-- Why a script: list and counters must always agree, or a recovery takes the pool for a damaged one.
--
-- KEYS: 1 state, 2 batch, 3 pool, 4 codes
-- ARGV: 1 epoch
-- Returns: {STALE_EPOCH, epoch} | {NOT_ENDED} | {NO_POOL} | {DONE, issued}
-- Cost: 5 commands; the codes are freed in the background.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
if redis.call('HGET', KEYS[2], 'state') ~= 'ended' then return {'NOT_ENDED'} end
local issued = redis.call('HGET', KEYS[3], 'issued')
-- UNLINK first: it is allowed when memory is short, and it makes room for the HSET.
redis.call('UNLINK', KEYS[4])
if not issued then return {'NO_POOL'} end
redis.call('HSET', KEYS[3], 'loaded', issued)
return {'DONE', issued}
