--- Taking a demo away: its watcher, its servers, its folder, and what its user keeps of it.
---
--- It works from whatever is left: also when the machine was switched off in the middle of a demo,
--- or a demo was killed while it made its cluster.
local agents = require("lib.agents")
local config = require("lib.config")
local create_plan = require("lib.create_plan")
local demo = require("lib.demo")
local home = require("lib.home")
local instance = require("lib.instance")
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

local NO_LINES = function() end

local function run(argv)
    local result, err = mr.run(argv)
    if not result then
        return nil, err
    end
    return result.code == 0 and true or nil, mr.error("io", (result.stderr:gsub("%s+$", "")))
end

-- Without the catalog: a server that still runs is ended by its host.
local function end_server(set, inst)
    local word, err = set:inspect(inst)
    if not word then
        return nil, err
    elseif word.stopped then
        return word
    end
    return set:order(inst, "fence", { epoch = instance.seen_epoch(word) + 1 })
end

local function end_servers(conf, env)
    local set = agents.new(env)
    local results = mr.parallel(config.instances(conf), 16, function(inst)
        return end_server(set, inst)
    end)
    set:close()
    for _, result in ipairs(results) do
        if result.error then
            return nil, result.error
        end
    end
    return true
end

-- With moonrise's own commands first, since a server that stops by itself gives back its shared
-- memory; they need a coordinator, and what they could not do is done without one.
local function stop(dir, conf)
    local datadir = conf.coordinator.datadir
    local env = home.read(datadir)
    if env then
        local world = { dir = dir, coordinator = { datadir = datadir }, show = NO_LINES }
        local ok, err = demo.command(world, { "watch", "--stop" })
        if not ok then
            return nil, err
        end
        demo.command(world, { "stop", "-a", "-M", "immediate" })
    end
    return end_servers(conf, env or {})
end

-- Another cluster may bear the demo's name; its files are left alone.
local function forget(dir, conf)
    local state = home.state_dir(conf.name)
    local text = mr.read_file(create_plan.record_path(conf.name))
    local record = text and mr.json_decode(text)
    if not mr.stat(state) or (record and record.datadir:sub(1, #dir + 1) ~= dir .. "/")
        or (not record and mr.stat(state .. "/passfile")) then
        return true
    end
    local ok, err = run({ "rm", "-rf", "--one-file-system", state })
    run({ "rmdir", (state:gsub("/[^/]+$", "")) })
    return ok, err
end

--- Stops and removes a demo's cluster. Refuses a folder that no demo has made.
---@param dir string
---@param show? function gets the lines that are said (default: printed)
---@return boolean? ok
---@return Error? err
function M.remove(dir, show)
    show = show or term.line
    if not mr.stat(dir) then
        show("There is no demo in " .. dir)
        return true
    elseif not mr.stat(dir .. "/" .. demo.MARKER) then
        return nil, mr.error("refused", dir .. " was not made by moonrise demo; it is left alone")
    end
    local ok, err = true, nil
    -- Without this file nothing was made yet.
    if mr.stat(dir .. "/cluster.lua") then
        local conf
        conf, err = config.load(dir .. "/cluster.lua")
        if not conf then
            return nil, err
        end
        show("Stopping the demo's cluster in " .. dir)
        ok, err = stop(dir, conf)
        if ok then
            ok, err = forget(dir, conf)
        end
    end
    if ok then
        ok, err = run({ "rm", "-rf", "--one-file-system", dir })
    end
    if ok then
        show("Nothing of the demo is left")
    end
    return ok, err
end

return M
