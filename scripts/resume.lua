--- `moonrise resume`: ends pauses of failover.
local pauses = require("lib.pauses")
local session = require("lib.session")
local term = require("lib.term")

-- Which of the pauses end, and which of the others still hold what was named.
local function sort_out(known)
    local ending, staying, scope = {}, {}, known.scope
    local whole = not scope.content and not scope.hostname
    for _, pause in ipairs(known.list) do
        if whole or pauses.same(pause, scope) then
            table.insert(ending, pause)
        elseif pauses.covers(pause, scope, known.instances) then
            table.insert(staying, pause)
        end
    end
    return ending, staying
end

local function print_plan(ending, staying, scope)
    for _, pause in ipairs(ending) do
        term.info("Resume the failover of %s, paused until %s by %s: %s", pauses.scope(pause),
            pause.until_text, pause.holder, pause.reason)
    end
    if #ending > 0 then
        term.info("   what is lost there is failed over or released at once")
    else
        term.info("No pause of %s", pauses.scope(scope))
    end
    for _, pause in ipairs(staying) do
        term.warn("%s stays paused by the pause of %s until %s by %s: %s", pauses.scope(scope),
            pauses.scope(pause), pause.until_text, pause.holder, pause.reason)
    end
end

local function run(ctx, opts, word)
    local known, err = pauses.read(ctx.cat, word)
    if not known then
        return nil, err
    end
    local ending, staying = sort_out(known)
    print_plan(ending, staying, known.scope)
    local done = {}
    if #ending > 0 and not opts.dry_run then
        local go, code = term.confirm("Continue with failover", opts.yes)
        if not go then
            return code
        end
        for _, pause in ipairs(ending) do
            local epoch
            epoch, err = ctx.cat:call("pause_end", pause.content, pause.hostname, pauses.holder())
            if err then
                return nil, err
            end
            table.insert(done, pause)
            term.info("Failover of %s goes on%s", pauses.scope(pause),
                epoch and "" or ": its pause had ended already")
        end
    end
    pauses.report(opts, "resumed", done)
    return #staying == 0 and 0 or 1
end

return {
    summary = "end a pause of failover",
    usage = "[CONTENT | HOST] [options]",
    description = [[
Ends the pause of a content or of a host, as moonrise pause has begun it; with neither, every pause
that there is. What was lost meanwhile is failed over or released at once. When another pause still
holds what was named, that is said and the exit code is 1.]],
    examples = [[
  moonrise resume           everything goes on
  moonrise resume sdw1      the pause of that host ends]],
    arguments = 1,
    main = function(opts, rest)
        return session.with(opts, function(ctx)
            return run(ctx, opts, rest[1])
        end)
    end,
}
