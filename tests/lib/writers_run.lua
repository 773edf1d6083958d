--- What the runbooks of writers (tests/lib/writers.lua) have in common: the files through which a
--- spec talks to them. A runbook has this file in its DIR.
---
---     local writers_run = dofile(DIR .. "/writers_run.lua")
---     return writers_run.serve(DIR, { acknowledged = ..., stop = ..., prove = ... })
local mr = require("moonrise")

local M = {}

-- Between two looks for a file.
local LOOK_MS = 50
local pause = mr.sleep

local function wait_for(file, fn)
    repeat
        fn()
        pause(LOOK_MS)
    until mr.stat(file)
end

--- A ledger's comparison with the lists in it counted.
---@param result table
---@return table<string, integer>
function M.counted(result)
    local counts = {}
    for key, value in pairs(result) do
        counts[key] = type(value) == "table" and #value or value
    end
    return counts
end

--- Does as it is told, until there is proof.
---@param dir string
---@param writers {acknowledged: (fun(): integer), stop: fun(), prove: fun(told: string): table}
--- `told` is what the spec wants to be known for the proof
---@return integer code
function M.serve(dir, writers)
    wait_for(dir .. "/stop", function()
        mr.check(mr.write_file(dir .. "/count", tostring(writers.acknowledged())))
    end)
    writers.stop()
    mr.check(mr.write_file(dir .. "/stopped", ""))
    wait_for(dir .. "/prove", function() end)
    mr.check(mr.write_file(dir .. "/proof", mr.json_encode(
        writers.prove(mr.check(mr.read_file(dir .. "/prove"))))))
    return 0
end

return M
