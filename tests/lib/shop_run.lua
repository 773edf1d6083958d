--- A runbook for specs: a table sharded over the segments, as the demo has it, and writers that
--- keep a ledger of every row. It and the spec talk through files in the directory DIR, as
--- tests/lib/writers.lua says.
---
---     moonrise run shop_run.lua DIR SEGMENTS SESSIONS
local demo = require("lib.demo")
local mr = require("moonrise")
local session = require("lib.session")

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

return {
    summary = "writers that keep a ledger",
    arguments = 3,
    main = function(options, args)
        local writers_run = dofile(args[1] .. "/writers_run.lua")
        return session.with(options, function(ctx)
            local world = open(ctx, tonumber(args[2]))
            demo.write(world, tonumber(args[3]))
            return writers_run.serve(args[1], {
                acknowledged = function()
                    return world.ledger.counts.acknowledged
                end,
                stop = function()
                    world.writer:stop()
                end,
                prove = function()
                    return writers_run.counted(mr.check(demo.compare(world)))
                end,
            })
        end)
    end,
}
