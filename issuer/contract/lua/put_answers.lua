-- Stores answers to Idempotency-Keys that Redis has lost, each for the rest of its time.
--
-- Why a script: the answers may be written only while this very recovery holds the partition, also when memory is short.
--
-- KEYS: 1 state, then kept answers
-- ARGV: 1 epoch (negative: the fence), then for each key: the answer as redeem.lua keeps it, ms to keep it
-- Returns: {STALE_EPOCH, epoch} | {DONE}
-- Cost: 2 commands, and 1 for each answer.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
for k = 2, #KEYS do redis.call('SET', KEYS[k], ARGV[2 * k - 2], 'PX', ARGV[2 * k - 1]) end
return {'DONE'}
