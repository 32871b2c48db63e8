-- What wrk does with every request and every answer.
--
-- The first argument is a file that returns the plan: method, path, sent and received bytes, whether
-- each request is to be unlike all others, and a list of visitors, each {cookie, origin}. Visitors
-- take turns. An answer is right if its status is 200, its length is the one planned, the origin
-- has received all that was sent, and the origin that answered (X-Origin) is the one the visitor
-- belongs to (X-Want, which the origin repeats).

-- Globals, because that is what `thread:get` reads.
answers, wrong_status, wrong_length, wrong_received, wrong_origin = 0, 0, 0, 0, 0

local threads = {}
local plan
local requests = {}
local turn, made = 0, 0
-- Stands where a number of its own is put into each request.
local NUMBER = string.rep("0", 16)
local has_origins, is_upload

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  plan = dofile(args[1])
  has_origins = plan.visitors[1][2] ~= ""
  is_upload = plan.sent > 0
  local body = is_upload and string.rep("x", plan.sent) or nil
  for _, visitor in ipairs(plan.visitors) do
    local headers = { ["User-Agent"] = "wrk", ["Accept"] = "*/*" }
    if visitor[1] ~= "" then headers["Cookie"] = visitor[1] end
    if visitor[2] ~= "" then headers["X-Want"] = visitor[2] end
    if plan.is_unique then headers["X-Request-Id"] = NUMBER end
    table.insert(requests, wrk.format(plan.method, plan.path, headers, body))
  end
end

function request()
  turn = turn % #requests + 1
  if not plan.is_unique then return requests[turn] end
  made = made + 1
  return (requests[turn]:gsub(NUMBER, string.format("%016d", made), 1))
end

-- Proxies spell names in lower case or as they were sent.
local function header(headers, name)
  return headers[name] or headers[name:lower()]
end

function response(status, headers, body)
  answers = answers + 1
  if status ~= 200 then wrong_status = wrong_status + 1 end
  if #body ~= plan.received then wrong_length = wrong_length + 1 end
  if has_origins then
    local origin = header(headers, "X-Origin")
    if not origin or origin ~= header(headers, "X-Want") then wrong_origin = wrong_origin + 1 end
    if is_upload then
      local received = tonumber(header(headers, "X-Received"))
      if not received or received < plan.sent or received > plan.sent + 4096 then
        wrong_received = wrong_received + 1
      end
    end
  end
end

local function total(name)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get(name) end
  return sum
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nREPORT {"answers": %d, "wrong_status": %d, "wrong_length": %d, "wrong_received": %d, ' ..
    '"wrong_origin": %d, "socket_errors": %d, "timeouts": %d}\n',
    total("answers"), total("wrong_status"), total("wrong_length"), total("wrong_received"),
    total("wrong_origin"), errors.connect + errors.read + errors.write, errors.timeout))
end
