-- Creates the hash of a pool. The only script that creates one; an existing pool stays as it is.
--
-- Why a script: two loaders may open the same pool, and a redemption may come between the read and the write.
--
-- KEYS: 1 state, 2 batch, 3 pool
-- ARGV: 1 epoch, 2 pool id, 3 issued (last seq that is accounted for), 4 total
-- Returns: {STALE_EPOCH, epoch} | {UNKNOWN_BATCH} | {ENDED} | {DONE, loaded, issued}
-- Cost: 4 commands.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local batch = redis.call('HGET', KEYS[2], 'state')
if not batch then return {'UNKNOWN_BATCH'} end
if batch ~= 'open' then return {'ENDED'} end
local meta = redis.call('HMGET', KEYS[3], 'loaded', 'issued')
if meta[1] then return {'DONE', meta[1], meta[2]} end
redis.call('HSET', KEYS[3], 'id', ARGV[2], 'issued', ARGV[3], 'loaded', ARGV[3], 'total', ARGV[4])
return {'DONE', ARGV[3], ARGV[3]}
