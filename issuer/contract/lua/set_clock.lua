-- Sets the clock of a fenced partition to that of the host, if it is ahead of it.
--
-- Why a script: only the recovery that has fenced the partition may let its time go back, since it rebuilds the windows
-- as of that time. A recovery that has lost its lock may not.
--
-- KEYS: 1 state
-- ARGV: 1 epoch of the fence (negative), 2 the time of the host (ms) as of which windows are rebuilt
-- Returns: {NOT_FENCED, epoch} | {STALE_EPOCH, epoch} | {DONE, clock}
-- Cost: 3 commands, 1 for a clock that is not ahead.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'clock')
local epoch, clock = state[1], state[2] or '0'
if not epoch or tonumber(epoch) >= 0 then return {'NOT_FENCED', epoch or ''} end
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch} end
if tonumber(clock) > tonumber(ARGV[2]) then
  -- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
  redis.call('PERSIST', KEYS[1])
  redis.call('HSET', KEYS[1], 'clock', ARGV[2])
end
return {'DONE', clock}
