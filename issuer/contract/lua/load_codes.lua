-- Appends codes to a pool exactly once: a second or late loader gets back how far the pool is loaded.
--
-- Why a script: the check of `first_seq` and the push must be one step, or two loaders push the same codes twice. The
-- check of `resets`, too: codes that were read before a reset of the pool have the seqs of others.
--
-- KEYS: 1 state, 2 batch, 3 pool, 4 codes
-- ARGV: 1 epoch, 2 first_seq, 3 total, 4 resets (how often the pool was reset when the codes were read), then the codes
--       in seq order (none: only raise the total)
-- Returns: {STALE_EPOCH, epoch} | {UNKNOWN_BATCH} | {ENDED} | {NO_POOL} | {OUT_OF_STEP, loaded, issued, resets} |
--          {DONE, loaded, issued, resets}
-- Cost: 6 commands for up to 4,000 codes, 1 more for each further 4,000; 4 without codes.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local batch = redis.call('HGET', KEYS[2], 'state')
if not batch then return {'UNKNOWN_BATCH'} end
if batch ~= 'open' then return {'ENDED'} end
local meta = redis.call('HMGET', KEYS[3], 'loaded', 'issued', 'total', 'resets')
if not meta[1] then return {'NO_POOL'} end
local loaded, count, resets = tonumber(meta[1]), #ARGV - 4, meta[4] or '0'
local total = string.format('%.0f', math.max(tonumber(meta[3]), tonumber(ARGV[3])))
if count == 0 then
  redis.call('HSET', KEYS[3], 'total', total)
  return {'DONE', meta[1], meta[2], resets}
end
if tonumber(ARGV[2]) ~= loaded + 1 or ARGV[4] ~= resets then return {'OUT_OF_STEP', meta[1], meta[2], resets} end
-- A read that fails when the key is not a list: the failure must come here, before the first write.
redis.call('LLEN', KEYS[4])
-- The list before its counter: if the script stopped in between, `loaded` would not fit the list, and redeem.lua would
-- answer INCONSISTENT instead of issuing codes under wrong seqs. unpack has room for about 8,000 values.
for from = 5, #ARGV, 4000 do
  redis.call('RPUSH', KEYS[4], unpack(ARGV, from, math.min(from + 3999, #ARGV)))
end
local now_loaded = string.format('%.0f', loaded + count)
redis.call('HSET', KEYS[3], 'loaded', now_loaded, 'total', total)
return {'DONE', now_loaded, meta[2], resets}
