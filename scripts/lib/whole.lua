--- What is done to a cluster as a whole, running or not: find it, say what will be done, ask, do it
--- so that it can be stopped, close what was opened.
local agents = require("lib.agents")
local finally = require("lib.finally")
local home = require("lib.home")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local M = {}

---@class Whole
---@field plan fun(env: Env, opts: table) prints what will be done
---@field question string "Continue with ..."
---@field stop_question string asked on Ctrl-C
---@field act fun(ctx: table, opts: table): any the work; ctx is {env, agents}, and ctx.cat is closed
--- when it has set it

--- Runs a command on the cluster that its options name.
---@param opts table
---@param whole Whole
---@return any ... what whole.act returned; 0 after --dry-run; or nil, err
function M.run(opts, whole)
    local env, err = home.find(opts)
    if not env then
        return nil, err
    end
    whole.plan(env, opts)
    if opts.dry_run then
        return 0
    end
    local go, code = term.confirm(whole.question, opts.yes)
    if not go then
        return code
    end
    local ctx = { env = env, agents = agents.new(env) }
    return finally(function()
        if ctx.cat then
            ctx.cat:close()
        end
        ctx.agents:close()
    end, stop_requests.guard, whole.stop_question, function()
        return whole.act(ctx, opts)
    end)
end

return M
