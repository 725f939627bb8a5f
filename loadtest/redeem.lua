-- The wrk script of a load: POST requests with a new customer each, built with two concatenations. Calls of IssueCoupon
-- have no customer and name the campaign, whose id is the batch id of the target.
--
-- Arguments after "--": path, targets file (lines of batch id and client id), requests per target (0: a random target
-- for each request), customer (a UUID, or - for a new one per request), keys (1: a new Idempotency-Key per request),
-- mean think time in ms (0: none; otherwise random, at most twice that), run id (8 hex digits), API key (or -), coupon
-- (1: the path is a coupon use, and the body names its client and the customer), texts (1: a new customer has a text of
-- 36 characters as its id, not a UUID).
-- A path with {client} is that of a member of a loyalty program: the second id of a target is put there, and the body
-- asks for one point.
-- At the end it prints one line of JSON after the word RESULT.

local bit = require("bit")
local tohex = bit.tohex
local counter, thread_number = 0, 0
local campaigns, points = false, false
local targets, per_target, fixed_customer, with_keys, think_ms, run
local head, tail, customer_tail, key_tail
local POINT = '{"points":1}'

function setup(thread)
  thread:set("number", thread_number)
  thread_number = thread_number + 1
end

local function template(path, api_key, coupon)
  local headers = {["Content-Type"] = "application/json", ["Host"] = wrk.headers["Host"] or wrk.host .. ":" .. wrk.port}
  if api_key ~= "-" then headers["Authorization"] = "Bearer " .. api_key end
  local length = #'{"batchid":"","clientid":"","customerid":""}' + 3 * 36
  if coupon then length = #'{"client_id":"","customer_id":""}' + 2 * 36 end
  if campaigns then length = #'{"campaignId":""}' + 36 end
  if points then length = #POINT end
  local body = string.rep("x", length)
  local request = wrk.format("POST", path, headers, body)
  return (request:gsub("\r\n\r\n" .. body .. "$", ""))
end

function init(args)
  math.randomseed(tonumber(args[7], 16) + number)
  campaigns = args[1]:match("/IssueCoupon$") ~= nil
  points = args[1]:find("{client}", 1, true) ~= nil
  targets = {}
  for line in io.lines(args[2]) do
    local batch, client = line:match("(%S+)%s+(%S+)")
    if points then targets[#targets + 1] = client
    elseif campaigns then targets[#targets + 1] = '{"campaignId":"' .. batch .. '"}'
    elseif args[9] == "1" then targets[#targets + 1] = '{"client_id":"' .. client .. '","customer_id":"'
    else targets[#targets + 1] = '{"batchid":"' .. batch .. '","clientid":"' .. client .. '","customerid":"' end
  end
  per_target, with_keys, think_ms, run = tonumber(args[3]), args[5] == "1", tonumber(args[6]), args[7]
  if args[4] ~= "-" then fixed_customer = args[4] end
  -- The first digits of the customer are pseudo-random, so that inserts hit the index of the ledger as in production.
  customer_tail = string.format("-%s-4%03x-8%s-%s%04x\"}", run:sub(1, 4), number, run:sub(5, 7), run, number)
  if args[10] == "1" then customer_tail = string.format('-%s%04x@s1.example.org"}', run, number) end
  key_tail = "-" .. run .. "-" .. number
  head = template(args[1], args[8], args[9] == "1")
  if points then head, tail = head:match("^(.-){client}(.*)$") end
  if think_ms > 0 then
    delay = function() return math.floor(math.random() * 2 * think_ms + 0.5) end
  end
end

function request()
  counter = counter + 1
  -- The factor is odd, so counters below 2^32 have distinct results; the product stays exact below 2^53.
  local digits = tohex(bit.tobit((counter % 2097152) * 2654435761 + math.floor(counter / 2097152)))
  local target
  if per_target > 0 then
    target = targets[math.min(#targets, math.floor((counter - 1) / per_target) + 1)]
  else
    target = targets[#targets == 1 and 1 or math.random(#targets)]
  end
  if points then
    local key = with_keys and "\r\nIdempotency-Key: " .. digits .. key_tail or ""
    return head .. target .. tail .. key .. "\r\n\r\n" .. POINT
  end
  local customer = campaigns and "" or fixed_customer and fixed_customer .. '"}' or digits .. customer_tail
  if with_keys then
    return head .. "\r\nIdempotency-Key: " .. digits .. key_tail .. "\r\n\r\n" .. target .. customer
  end
  return head .. "\r\n\r\n" .. target .. customer
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "refused": %d, "seconds": %.6f, "p50_ms": %.3f, "p90_ms": %.3f, "p99_ms": %.3f, '
      .. '"p999_ms": %.3f, "max_ms": %.3f, "socket_errors": %d}',
    summary.requests, errors.status, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout))
end
