--- Copies from other hosts: the target's agent has the blocks from the source's host by ssh. Where
--- it does not get there they go through this host, which reaches both: slower, and told once.
local mr = require("moonrise")
local agents = require("lib.agents")
local finally = require("lib.finally")
local term = require("lib.term")

local M = {}

-- By set of agents: the pairs of hosts that are known not to reach each other.
local apart = setmetatable({}, { __mode = "k" })

local function reach_of(target, source)
    return target.hostname .. " " .. source.hostname
end

local function known(ctx)
    apart[ctx.agents] = apart[ctx.agents] or {}
    return apart[ctx.agents]
end

local function tell(ctx, target, source, why)
    local pairs_apart, reach = known(ctx), reach_of(target, source)
    if not pairs_apart[reach] then
        pairs_apart[reach] = true
        term.warn("relayed through this host, which is slower: %s does not reach %s by ssh (%s)",
            target.hostname, source.hostname, why)
    end
end

-- The name that ssh is given; a child needs none.
local function far(host)
    return not agents.is_local(host) and host or nil
end

-- An error of the order tells what the target saw; the relay knows why.
local function explained(err, why)
    if not why or err.code == "cancelled" then
        return err
    end
    return mr.error(err.code, ("%s (the relay: %s)"):format(err.message, why.message),
        { hint = why.hint or err.hint, instance = err.instance, cause = err })
end

--- Gives a recover order (agent.h), and relays for it when that is asked for.
---@param ctx table {agents}
---@param target table
---@param source table
---@param args table of the order
---@param progress? function
---@return table? numbers
---@return Error? err
function M.recover(ctx, target, source, args, progress)
    local relay, why
    local function heard(report)
        if report.stage == "relay" then
            tell(ctx, target, source, report.why)
            relay, why = mr.relay({ source = far(source.hostname), target = far(target.hostname),
                socket = report.socket })
        elseif progress then
            progress(report)
        end
    end
    if args.source.host then
        args.source.relay = known(ctx)[reach_of(target, source)] and "needed" or "offered"
    end
    local numbers, err = finally(function()
        if relay then
            why = relay:why()
            relay:close()
        end
    end, ctx.agents.order, ctx.agents, target, "recover", args,
        { timeout_ms = 0, progress = heard })
    return numbers, err and explained(err, why)
end

return M
