-- Stores what redeem.lua has to know of a batch, unless Redis has a later revision already.
--
-- Why a script: two changes of one batch may arrive in either order; the revision assigned in Postgres decides. An open
-- revision is not closed again for its rebuild: the process that was overtaken might be killed before it reopens it.
-- A revision is recognised by its token: a Postgres that went back assigns its number again. A recovery, whose epoch is
-- negative, writes what Postgres has, whatever is there.
--
-- KEYS: 1 state, 2 batch
-- ARGV: 1 epoch, 2 revision, 3 state (open | ended), 4 paused (1 | 0), 5 starts_at_ms or '', 6 ends_at_ms or '',
--       7 limits (max:window_ms,…; window 0: without end), 8 rebuilding ('', or the revision whose windows are rebuilt,
--       or 'unopened' for a coupon whose pool is not marked as opened), 9 coupon ('' for a batch of codes; otherwise
--       separated by US: total uses, number of the terms, folded code or '', product or '', terms), 10 token of the
--       revision
-- Returns: {STALE_EPOCH, epoch} | {SUPERSEDED, revision, token} | {REBUILT} | {DONE, token of the revision replaced or ''}
-- Cost: 4 commands, 5 for a coupon.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'STALE_EPOCH', epoch or ''} end
local there = redis.call('HMGET', KEYS[2], 'revision', 'rebuilding', 'token')
local is_same = there[3] == ARGV[10]
if tonumber(ARGV[1]) > 0 then
  if is_same and there[2] == '' and ARGV[8] ~= '' then return {'REBUILT'} end
  if not is_same and there[1] and tonumber(there[1]) >= tonumber(ARGV[2]) then
    return {'SUPERSEDED', there[1], there[3] or ''}
  end
end
-- First a write that is allowed when memory is short: behind it none is refused. The key has no expiry.
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[2], 'revision', ARGV[2], 'state', ARGV[3], 'paused', ARGV[4], 'starts_at_ms', ARGV[5],
  'ends_at_ms', ARGV[6], 'limits', ARGV[7], 'rebuilding', ARGV[8], 'token', ARGV[10])
if ARGV[9] ~= '' then redis.call('HSET', KEYS[2], 'coupon', ARGV[9]) end
return {'DONE', not is_same and there[3] or ''}
