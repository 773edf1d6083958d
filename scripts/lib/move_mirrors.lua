--- What `movemirrors` is about to do, and doing it: mirrors that are up are moved as
--- lib/live_move.lua says, those that are down are recovered to their new places.
local mr = require("moonrise")
local by_host = require("lib.by_host")
local cluster = require("lib.cluster")
local hold = require("lib.hold")
local left_places = require("lib.left_places")
local live_move = require("lib.live_move")
local move = require("lib.move")
local rate_shares = require("lib.rate_shares")
local recovery = require("lib.recovery")
local recovery_copy = require("lib.recovery_copy")
local recovery_targets = require("lib.recovery_targets")
local term = require("lib.term")

local M = {}

---@class MovedMirror
---@field pair table
---@field to? Place nil: an earlier run has moved it
---@field failed? table lib/recovery.lua's
---@field live? boolean it is up, and goes on while it is copied
---@field is_there? boolean it is up at its new place: only what an earlier run left is seen to

-- A copy beside what is copied; without another directory there is none.
local function is_live(row, to)
    return row.status == "u" and (row.hostname ~= to.hostname or row.datadir ~= to.datadir)
end

local function examine(ctx, entry)
    if entry.is_there then
        return entry
    end
    local err
    entry.failed, err = recovery.examine(ctx, entry.pair, entry.to)
    if not entry.failed then
        return nil, err
    end
    local mirror = entry.pair.mirror
    entry.live = entry.to and is_live(mirror, entry.to) or false
    entry.failed.takes_out = mirror.status == "u"
    return entry
end

local function entries_of(instances, targets)
    local entries = {}
    for i, target in ipairs(targets) do
        entries[i] = { pair = cluster.pair(instances, target.row.content), to = target.to,
                       is_there = target.is_there and not target.to }
    end
    return entries
end

--- The host that a mirror is to be on.
---@param entry MovedMirror
---@return string
function M.host_of(entry)
    return (entry.to or entry.pair.mirror).hostname
end

--- The plan: { entries = MovedMirror[], skipped = MovedMirror[] with err }.
---@param ctx table
---@param opts table movemirrors' options
---@return table? plan
---@return Error? err code "usage": mistakes in the file
function M.plan(ctx, opts)
    local instances, err = ctx.cat:instances()
    local targets
    if instances then
        targets, err = recovery_targets.of_file(opts.input, instances, true)
    end
    if not targets then
        return nil, err
    end
    local plan = {}
    plan.entries, plan.skipped = by_host.sort_out(entries_of(instances, targets), M.host_of, opts,
        function(entry)
            return examine(ctx, entry)
        end)
    local copies = {}
    for _, entry in ipairs(plan.entries) do
        table.insert(copies, entry.failed)
    end
    rate_shares.share(copies, opts)
    return plan
end

local function print_entry(entry)
    local pair = entry.pair
    term.info("   Move of     %s", cluster.name(pair.mirror))
    if not entry.to then
        term.info("      it is there; what an earlier run has left is seen to")
        return
    end
    term.info("      to       %s", move.name(entry.to))
    term.info("      address  %s", entry.to.address)
    if not entry.failed.takes_out then
        term.info("      it is down: its new place gets a copy of its primary")
    elseif entry.live then
        term.info("      it goes on where it is until the copy has caught up")
    else
        term.warn("      it is down while that is done: its directory stays the same")
    end
    if entry.failed.resumes then
        term.info("      goes on with what an earlier run has copied")
    end
    move.warn_of_host(entry.to, pair.primary)
end

--- Prints the plan.
---@param plan table
function M.print(plan)
    term.info("Mirrors to move: %d", #plan.entries)
    term.info("-----------------------------------------------------")
    for _, entry in ipairs(plan.entries) do
        print_entry(entry)
        term.info("-----------------------------------------------------")
    end
end

local function move_live(ctx, entry, options)
    local failed = entry.failed
    local numbers, err = live_move.prepare(ctx, failed, options)
    if not numbers then
        return nil, err
    end
    local switched
    switched, err = recovery.recover(ctx, failed, "switch", {})
    if not switched then
        return nil, err
    end
    live_move.finish(ctx, failed)
    switched.bytes_written = numbers.bytes_written
    return switched
end

-- An earlier run ended after its transition.
local function see_to_the_rest(ctx, entry)
    local pair = entry.pair
    if pair.mirror.mode == "n" then
        local ok, err = recovery.bring_in_sync(ctx, pair)
        if not ok then
            return nil, err
        end
    end
    move.tell_clients(ctx, pair.content)
    live_move.finish(ctx, { content = pair.content, source = pair.primary, target = pair.mirror })
    local problems = left_places.of_contents(ctx, { [pair.content] = true })
    return { took_ms = 0, unfinished = problems > 0 }
end

--- Moves one mirror.
---@param ctx table {env, cat, agents}
---@param entry MovedMirror
---@param options {progress: function?, max_rate: number?, tablespaces: table?}
---@return table? numbers
---@return Error? err
function M.move(ctx, entry, options)
    local began = mr.clock()
    local numbers, err
    if entry.is_there then
        numbers, err = see_to_the_rest(ctx, entry)
    elseif entry.live then
        numbers, err = live_move.holding(ctx, entry.failed, function()
            return move_live(ctx, entry, options)
        end)
    else
        numbers, err = recovery.recover(ctx, entry.failed, recovery_copy.cheapest(entry.failed),
            options)
    end
    if numbers then
        numbers.took_ms = mr.clock() - began
    end
    return numbers, err
end

-- The switch did not come about, and the mirror at the old place was stopped for it.
local function start_again(ctx, pair)
    local failed, err = recovery.examine(ctx, pair)
    local numbers
    if failed then
        numbers, err = recovery.recover(ctx, failed, recovery_copy.cheapest(failed), {})
    end
    if numbers then
        term.info("%s: it goes on where it was", cluster.name(pair.mirror))
    else
        term.error(mr.error(err.code, "it is down, where it was: " .. err.message, {
            instance = cluster.name(pair.mirror), cause = err,
            hint = "moonrise recoverseg brings it back" }))
    end
end

--- After a failure: the mirror is where it was, and in sync. What was copied stays for the next
--- run.
---@param ctx table
---@param entry MovedMirror
function M.clear_up(ctx, entry)
    if not entry.live then
        return
    end
    hold.drop_own(ctx.cat, entry.pair.content)
    local pair, err = ctx.cat:pair(entry.pair.content)
    local mirror = pair and pair.mirror
    if mirror and move.is_at(mirror, entry.to) then
        term.warn("%s: it is at its new place; run movemirrors again", cluster.name(mirror))
        return
    end
    local ok
    if pair then
        ok, err = live_move.undo(ctx, entry.failed)
    end
    if not ok then
        term.warn("%s: not everything is as before: %s", cluster.name(entry.pair.mirror),
            tostring(err))
    end
    if mirror and mirror.status == "d" and move.is_at(mirror, entry.failed.from) then
        start_again(ctx, pair)
    end
end

return M
