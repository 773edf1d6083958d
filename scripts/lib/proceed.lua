--- What follows a printed plan: the question, the work, and the result for machines.
local term = require("lib.term")

---@class Work
---@field plan table
---@field is_some boolean whether the plan has anything to do
---@field question string "Continue with ..."
---@field failures integer what has failed, or was skipped, while the plan was made
---@field act fun(ctx: table, plan: table, opts: table): integer what of it has failed
---@field as_json fun(plan: table): table the plan, and what came of it

--- Asks and acts, unless there is nothing to do or it was a --dry-run.
---@param ctx table {env, cat, agents}
---@param opts table the command's options
---@param work Work
---@return integer exit_code
return function(ctx, opts, work)
    local failures = work.failures
    if work.is_some and not opts.dry_run then
        local go, code = term.confirm(work.question, opts.yes)
        if not go then
            return code
        end
        failures = failures + work.act(ctx, work.plan, opts)
    end
    if opts.json then
        term.json(work.as_json(work.plan))
    end
    return failures == 0 and 0 or 1
end
