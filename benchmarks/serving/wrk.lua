-- Posts prepared bodies in turn: wrk -s wrk.lua URL -- FOLDER COUNT, with the bodies in FOLDER/0.json …
-- The last line of its output is what was measured, as JSON; times in microseconds.

local requests, last = {}, 0

function init(args)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   for k = 1, tonumber(args[2]) do
      local file = assert(io.open(args[1] .. "/" .. (k - 1) .. ".json", "rb"))
      requests[k] = wrk.format(nil, nil, nil, file:read("*a"))
      file:close()
   end
end

function request()
   last = last % #requests + 1
   return requests[last]
end

function done(summary, latency)
   local told = {}
   for name, count in pairs(summary.errors) do
      table.insert(told, string.format('"%s": %d', name, count))
   end
   io.write(string.format('\n{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "errors": {%s}}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), table.concat(told, ", ")))
end
