--- `moonrise switchover`: primary and mirror of a content change places, without a loss or a copy.
local mr = require("moonrise")
local args = require("lib.args")
local cluster = require("lib.cluster")
local copy_options = require("lib.copy_options")
local handover = require("lib.handover")
local handover_resume = require("lib.handover_resume")
local handover_waves = require("lib.handover_waves")
local proceed = require("lib.proceed")
local session = require("lib.session")
local term = require("lib.term")

-- The contents that were named, or what is wrong with one of them.
local function parse(words)
    local contents, seen = {}, {}
    for _, word in ipairs(words) do
        local content = word:match("^%-?%d+$") and tonumber(word)
        if not content then
            return nil, ("'%s' is no content: a whole number is wanted"):format(word)
        elseif content < 0 then
            return nil, "the coordinator's pair is not handed over: switchover is for segments"
        elseif seen[content] then
            return nil, ("content %d is named twice"):format(content)
        end
        seen[content] = true
        table.insert(contents, content)
    end
    if #contents == 0 then
        return nil, "which content? moonrise state -c lists them"
    end
    return contents
end

-- What can be handed over now, and what cannot with the reason.
local function plan_of(ctx, contents, opts)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    local asked = {}
    for i, content in ipairs(contents) do
        asked[i] = cluster.pair(instances, content)
        if not asked[i] then
            return nil, mr.error("usage", ("the cluster has no content %d"):format(content),
                { hint = "moonrise state -c lists them" })
        end
    end
    local plan = { wave = {}, refused = {} }
    local ready = mr.parallel(asked, opts.batch, function(pair)
        return handover.ready(ctx, pair, opts.replay_lag)
    end)
    for i, pair in ipairs(asked) do
        if ready[i].error then
            table.insert(plan.refused, { pair = pair, err = ready[i].error })
        else
            pair.replay_bytes = ready[i].replay_bytes
            table.insert(plan.wave, pair)
        end
    end
    return plan
end

local function print_plan(plan)
    for _, entry in ipairs(plan.refused) do
        term.error(entry.err)
        term.warn("content %d is not handed over", entry.pair.content)
    end
    if #plan.wave > 0 then
        term.info("Switchover plan: sessions on these primaries end, and their writers wait until")
        term.info("the mirror is promoted; nothing is copied")
    end
    for _, pair in ipairs(plan.wave) do
        term.info("   content %d: primary becomes %s", pair.content, cluster.name(pair.mirror))
        term.info("      mirror becomes %s", cluster.name(pair.primary))
        term.info("      replay is %s behind", term.bytes(pair.replay_bytes))
    end
end

local function hand_over(ctx, plan, opts)
    return handover_waves.run(ctx, { plan.wave }, opts, "roles changed")
end

local function as_json(plan)
    local told, refused = {}, {}
    for _, pair in ipairs(plan.wave) do
        local entry = handover_waves.as_json(pair, 1)
        entry.wave, entry.replay_bytes = nil, pair.replay_bytes
        table.insert(told, entry)
    end
    for _, entry in ipairs(plan.refused) do
        table.insert(refused, { content = entry.pair.content, reason = tostring(entry.err) })
    end
    return { handed_over = mr.json_array(told), refused = mr.json_array(refused) }
end

local function run(ctx, opts, contents)
    -- What an earlier run has left half-way comes first.
    local unfinished = opts.dry_run and 0 or handover_resume.all(ctx)
    local plan, err = plan_of(ctx, contents, opts)
    if not plan then
        return nil, err
    end
    print_plan(plan)
    return proceed(ctx, opts, { plan = plan, is_some = #plan.wave > 0,
        failures = #plan.refused + unfinished, question = "Continue with the switchover",
        act = hand_over, as_json = as_json })
end

return {
    summary = "hand pairs over: the mirror becomes the primary",
    usage = "CONTENT... [options]",
    description = [[
Primary and mirror of each content that is named change places, whichever role they prefer: a
checkpoint, the replay is waited for, the primary is stopped, the mirror has its last byte and is
promoted, the old primary follows it as the mirror. Nothing is copied and no commit is lost; the
writers of that content wait for as long as it takes, commonly less than a second, and its sessions
end. Other pairs notice nothing.

Only a pair that is up and in sync is handed over; any other is named with the reason and left as
it is, and the exit code is 1. Until the roles change everything can be undone, and is undone when
something goes wrong; Ctrl-C and SIGTERM stop it between two pairs. What a killed run left half-way
is finished or undone by the watcher, or by the next switchover, recoverseg or start.

moonrise recoverseg -r returns every instance to its preferred role.]],
    examples = [[
  moonrise switchover 0             content 0
  moonrise switchover 0 1 2 -a      three of them, without a question]],
    arguments = math.huge,
    options = args.joined({
        { key = "replay_lag", long = "replay-lag", arg = "SIZE", kind = "size",
          default = handover.MAX_LAG_BYTES,
          help = "largest replay lag of a mirror that is promoted (default 64MB)" },
    }, copy_options.progress),
    check = function(_, rest)
        local _, problem = parse(rest)
        return problem
    end,
    main = function(opts, rest)
        return session.with(opts, function(ctx)
            return run(ctx, opts, parse(rest))
        end)
    end,
}
