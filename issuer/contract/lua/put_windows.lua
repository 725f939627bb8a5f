-- Replaces the windows of customers while their batch is closed for a rebuild.
--
-- Why a script: the windows may be written only while the batch still waits for this very rebuild.
--
-- KEYS: 1 state, 2 batch, then windows
-- ARGV: 1 epoch, 2 rebuilding (as put_batch.lua stored it), then for each window: its times (13 digits of ms each,
--       oldest first), ms to keep it (0: without expiry)
-- Returns: {STALE_EPOCH, epoch} | {SUPERSEDED, rebuilding} | {DONE}
-- Cost: 3 commands, and 1 for each window.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local rebuilding = redis.call('HGET', KEYS[2], 'rebuilding')
if rebuilding ~= ARGV[2] then return {'SUPERSEDED', rebuilding or ''} end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
for w = 3, #KEYS do
  local times, keep_ms = ARGV[2 * w - 3], ARGV[2 * w - 2]
  if keep_ms == '0' then redis.call('SET', KEYS[w], times)
  else redis.call('SET', KEYS[w], times, 'PX', keep_ms) end
end
return {'DONE'}
