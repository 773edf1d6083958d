--- moonrise confirm: pairs that have not confirmed their epochs since the coordinator's standby was
--- activated are asked, or somebody accepts what they cannot tell.
local args = require("lib.args")
local cluster = require("lib.cluster")
local confirm = require("lib.confirm")
local hold = require("lib.hold")
local mr = require("moonrise")
local session = require("lib.session")
local term = require("lib.term")

local function check(opts, rest)
    local content = rest[1] and tonumber(rest[1])
    if rest[1] and not (content and content % 1 == 0 and content >= 0 and content <= 32767) then
        return ("'%s' is no content"):format(rest[1])
    elseif opts.accept_loss and not content then
        return "--accept-loss is said of one content: moonrise confirm CONTENT --accept-loss TEXT"
    end
    return args.sentence("--accept-loss", opts.accept_loss, 500)
end

local function unconfirmed(ctx, content)
    local contents, err = ctx.cat:unconfirmed()
    if not contents then
        return nil, err
    end
    local wanted = {}
    for _, c in ipairs(contents) do
        wanted[c] = content == nil or c == content or nil
    end
    return ctx.cat:pairs(function(pair)
        return wanted[pair.content] == true
    end)
end

local function plan(list, opts)
    for _, pair in ipairs(list) do
        term.info("Confirm content %d: %s%s%s", pair.content, cluster.name(pair.primary),
            pair.mirror and ", " .. cluster.name(pair.mirror) or "",
            opts.accept_loss and "; what is not proven is accepted: " .. opts.accept_loss or "")
    end
end

local function one(ctx, pair, opts)
    local epoch, err = hold.content(ctx, pair.content, "confirm", "ask", function(lease)
        return confirm.pair(ctx, pair, lease.token, opts.accept_loss)
    end)
    local now = epoch and ctx.cat:pair(pair.content)
    if epoch then
        term.info("content %d is confirmed%s", pair.content,
            now and (": %s is its primary"):format(cluster.name(now.primary)) or "")
    else
        term.error(err)
    end
    return { content = pair.content, confirmed = epoch ~= nil, error = err and tostring(err) }
end

local function act(ctx, list, opts)
    local results, code = {}, 0
    for i, pair in ipairs(list) do
        results[i] = one(ctx, pair, opts)
        code = results[i].confirmed and code or 1
    end
    if opts.json then
        term.json({ contents = mr.json_array(results) })
    end
    return code
end

local function main(opts, rest)
    return session.with(opts, function(ctx)
        local list, err = unconfirmed(ctx, tonumber(rest[1]))
        if not list then
            return nil, err
        elseif #list == 0 then
            term.info("Nothing is unconfirmed%s", rest[1] and " of content " .. rest[1] or "")
            return act(ctx, list, opts)
        end
        plan(list, opts)
        if opts.dry_run then
            return 0
        end
        local go_on, code = term.confirm("Continue with the confirmation", opts.yes)
        return go_on and act(ctx, list, opts) or code
    end)
end

return {
    summary = "confirm pairs after an activation of the standby coordinator",
    usage = "[CONTENT] [--accept-loss TEXT] [options]",
    description = [[
The catalog of an activated standby may lack the last changes. Until both hosts of a pair have told
the epochs of its instances, the pair is neither released nor promoted. The watcher asks them by
itself; this asks once more and says why a pair is not confirmed. A host that does not come back is
done without by --accept-loss: the roles are then what can be told, and commits may be missing.]],
    arguments = 1,
    options = {
        { key = "accept_loss", long = "accept-loss", arg = "TEXT",
          help = "by whom and why: it is kept in the journal" },
    },
    check = check,
    main = main,
}
