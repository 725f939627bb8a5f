-- Raises the beat of a partition, unless the caller has seen later data: then these are older ones that were put back.
--
-- Why a script: the beat may be raised only in the data set that carries the epoch and is not behind. Raised there all
-- the same, it would reach what its processes have seen, and hide that the data are old.
--
-- KEYS: 1 state
-- ARGV: 1 epoch, 2 serial floor, 3 beat floor
-- Returns: {STALE_EPOCH, epoch} | {BEHIND, serial, beat} | {DONE, serial, beat, token of Postgres' last commit or ''}
-- Cost: 3 commands.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'serial', 'beat', 'lineage')
if state[1] ~= ARGV[1] then return {'STALE_EPOCH', state[1] or ''} end
if tonumber(state[2]) < tonumber(ARGV[2]) or tonumber(state[3]) < tonumber(ARGV[3]) then
  return {'BEHIND', state[2], state[3]}
end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
return {'DONE', state[2], tostring(redis.call('HINCRBY', KEYS[1], 'beat', 1)), state[4] or ''}
