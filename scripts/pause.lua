--- `moonrise pause`: for some time nothing is promoted or released.
local args = require("lib.args")
local mr = require("moonrise")
local pauses = require("lib.pauses")
local session = require("lib.session")
local term = require("lib.term")

local HOUR_MS = 3600000
local SHORTEST_MS, LONGEST_MS = 1000, 168 * HOUR_MS
local REASON_BYTES = 200

local function check(opts)
    if not opts.duration then
        return "--for TIME is missing: a pause ends by itself, such as --for 30min"
    elseif opts.duration < SHORTEST_MS or opts.duration > LONGEST_MS then
        return "--for wants a time from 1s to 7d: a longer pause is begun again"
    elseif not opts.reason then
        return "--reason TEXT is missing: it is what moonrise state shows to everybody else"
    end
    return args.sentence("--reason", opts.reason, REASON_BYTES)
end

-- The pause of this scope that is there already.
local function standing(list, scope)
    for _, pause in ipairs(list) do
        if pauses.same(pause, scope) then
            return pause
        end
    end
    return nil
end

local function print_plan(scope, old, opts)
    term.info("Pause the failover of %s for %s: %s", pauses.scope(scope),
        term.duration(opts.duration), opts.reason)
    term.info("   a primary that is lost meanwhile has no successor: its clients fail")
    term.info("   a mirror that is lost meanwhile is waited for: commits in sync hang")
    term.info("   both are acted on as soon as the pause ends; moonrise resume ends it early")
    if old then
        term.info("   it replaces the pause until %s by %s: %s", old.until_text, old.holder,
            old.reason)
    end
end

local function run(ctx, opts, word)
    local known, err = pauses.read(ctx.cat, word)
    if not known then
        return nil, err
    end
    local scope = known.scope
    print_plan(scope, standing(known.list, scope), opts)
    if opts.dry_run then
        pauses.report(opts, "paused", {})
        return 0
    end
    local go, code = term.confirm("Continue with the pause of failover", opts.yes)
    if not go then
        return code
    end
    local epoch
    epoch, err = ctx.cat:call("pause_set", scope.content, scope.hostname,
        ("%d milliseconds"):format(opts.duration), pauses.holder(), opts.reason)
    if not epoch then
        return nil, err
    end
    local now = standing(mr.check(ctx.cat:pauses()), scope)
    if now then
        term.info("Failover of %s is paused until %s", pauses.scope(scope), now.until_text)
    end
    pauses.report(opts, "paused", { now })
    return 0
end

return {
    summary = "promote and release nothing for some time",
    usage = "[CONTENT | HOST] --for TIME --reason TEXT [options]",
    description = [[
For that time the watcher promotes no mirror and releases no primary: of one content, of every
pair that has an instance on one host, or, with neither, of the whole cluster. Use it while a
network or a host is worked on, and failures that would come of that are not to be acted on.

A primary that is lost while failover is paused stays lost, and commits wait for a mirror that is
lost; both are told in the history. As soon as the pause ends, by itself or by moonrise resume,
what has to be done is done. A change of roles that was recorded before is still carried out,
mirrors that come back are taken up, and commands such as recoverseg, switchover and stop do
their work: they are your own will.

moonrise state shows who paused what, why and until when, and ends with 1 meanwhile. A pause that
is repeated replaces the one before it.]],
    examples = [[
  moonrise pause --for 30min --reason "new switches in rack 4"
  moonrise pause sdw1 --for 2h --reason "kernel update"
  moonrise pause 3 --for 10min --reason "disk of content 3 is moved"]],
    arguments = 1,
    options = {
        { key = "duration", long = "for", arg = "TIME", kind = "duration",
          help = "how long, from 1s to 7d; it ends by itself" },
        { key = "reason", long = "reason", arg = "TEXT", help = "why, for whoever looks at state" },
    },
    check = check,
    main = function(opts, rest)
        return session.with(opts, function(ctx)
            return run(ctx, opts, rest[1])
        end)
    end,
}
