--- A runbook for specs: a table sharded over the segments, as the demo has it, and writers that
--- keep a ledger of every row. It and the spec talk through files in the directory DIR.
---
---     moonrise run shop_run.lua DIR SEGMENTS SESSIONS
---
--- `count` says how many rows were acknowledged so far; `stop` ends the writers, then there is
--- `stopped`; `prove` has the table read, then there is `proof`, and this program ends.
local demo = require("lib.demo")
local mr = require("moonrise")
local session = require("lib.session")

-- Between two looks for a file.
local LOOK_MS = 50
local pause = mr.sleep

local LISTS = { "missing", "ghosts", "twice", "strangers" }

local function open(ctx, segments)
    local world = { session = ctx, segments = segments, show = function() end }
    for _, inst in ipairs(mr.check(ctx.cat:instances())) do
        if inst.content == -1 and inst.role == "p" then
            world.coordinator = inst
        end
    end
    mr.check(demo.shard(world))
    return world
end

local function wait_for(file, fn)
    repeat
        fn()
        pause(LOOK_MS)
    until mr.stat(file)
end

local function write_until_told(world, dir, sessions)
    demo.write(world, sessions)
    wait_for(dir .. "/stop", function()
        mr.check(mr.write_file(dir .. "/count", tostring(world.ledger.counts.acknowledged)))
    end)
    world.writer:stop()
    mr.check(mr.write_file(dir .. "/stopped", ""))
end

local function prove(world, dir)
    wait_for(dir .. "/prove", function() end)
    local result = mr.check(demo.compare(world))
    local proof = { acknowledged = result.acknowledged, refused = result.refused,
        unknown = result.unknown }
    for _, name in ipairs(LISTS) do
        proof[name] = #result[name]
    end
    mr.check(mr.write_file(dir .. "/proof", mr.json_encode(proof)))
end

return {
    summary = "writers that keep a ledger",
    arguments = 3,
    main = function(options, args)
        return session.with(options, function(ctx)
            local world = open(ctx, tonumber(args[2]))
            write_until_told(world, args[1], tonumber(args[3]))
            prove(world, args[1])
            return 0
        end)
    end,
}
