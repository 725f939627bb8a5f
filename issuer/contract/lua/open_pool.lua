-- Creates the hash of a pool. The only script that creates one; an existing pool stays as it is.
-- If Postgres accounts for more than an existing pool has issued, used codes were imported into it: it is reset, since
-- its list has the order before the import.
--
-- Why a script: two loaders may open the same pool, and a redemption may come between the read and the write.
--
-- KEYS: 1 state, 2 batch, 3 pool, 4 codes
-- ARGV: 1 epoch, 2 pool id, 3 issued (last seq that is accounted for), 4 total
-- Returns: {STALE_EPOCH, epoch} | {UNKNOWN_BATCH} | {ENDED} | {DONE, loaded, issued}
-- Cost: 4 commands, 6 for a pool that is reset.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local batch = redis.call('HGET', KEYS[2], 'state')
if not batch then return {'UNKNOWN_BATCH'} end
if batch ~= 'open' then return {'ENDED'} end
local meta = redis.call('HMGET', KEYS[3], 'loaded', 'issued', 'resets')
if meta[1] and tonumber(meta[2]) >= tonumber(ARGV[3]) then return {'DONE', meta[1], meta[2]} end
if meta[1] then
  redis.call('UNLINK', KEYS[4])
  redis.call('HSET', KEYS[3], 'resets', tonumber(meta[3] or '0') + 1)
end
redis.call('HSET', KEYS[3], 'id', ARGV[2], 'issued', ARGV[3], 'loaded', ARGV[3], 'total', ARGV[4])
return {'DONE', ARGV[3], ARGV[3]}
