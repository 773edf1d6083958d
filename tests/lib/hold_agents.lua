--- A program for specs: stops a host's agent of a program, and each that the program starts anew,
--- until either of the two ends.
---
---     luajit tests/lib/hold_agents.lua PID HOST
package.path = "./?.lua;" .. package.path
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

-- A program does not go on for longer without asking the host again.
local NEXT_S = 600

local pid, host = tonumber(arg[1]), arg[2]

local function one_that_runs()
    for _, agent in ipairs(hurt.agents(pid, host)) do
        if not hurt.stands_still(agent) then
            return agent
        end
    end
end

while place_of.alive(pid) do
    local agent = wait.eventually("an agent of " .. host, NEXT_S, function()
        return one_that_runs() or not place_of.alive(pid) and pid
    end)
    if agent ~= pid then
        place_of.kill(agent, "STOP")
    end
end
