--- Places that instances have left, or were about to come to (the catalog's left_place): what lies
--- there is marked and ended, so that nobody starts it, and goes once its pair is in sync
--- (SAFETY.md, rule 10). A place whose host does not answer stays on record until it does.
local mr = require("moonrise")
local agents = require("lib.agents")
local busy_places = require("lib.busy_places")
local cluster = require("lib.cluster")
local hba = require("lib.hba")
local hold = require("lib.hold")
local instance = require("lib.instance")
local term = require("lib.term")

local M = {}

local WORD_MS = 10000
local ORDER_MS = 20000

---@class LeftPlace: Place
---@field dbid integer
---@field content integer
---@field since string

-- A place as the row of an instance.
local function row_of(place)
    return { dbid = place.dbid, content = place.content, role = "m", hostname = place.hostname,
             address = place.address, port = place.port, datadir = place.datadir }
end

-- Whether what lies there says that it is this instance's.
local function is_of(word, place, sysid)
    local epoch, patch = word.epoch, word.patch
    if epoch and epoch.valid then
        return epoch.dbid == place.dbid and epoch.sysid == sysid
    end
    return patch ~= nil and tonumber(patch.dbid) == place.dbid and patch.sysid == sysid
end

-- What an instance has outside of its directory is not removed with it.
local function outside(word, datadir)
    local list = {}
    local function add(path)
        if path and path:sub(1, #datadir + 1) ~= datadir .. "/" then
            table.insert(list, path)
        end
    end
    add(word.wal_dir)
    for _, space in ipairs(word.tablespaces or {}) do
        add(space.path:sub(1, 1) == "/" and space.path or nil)
    end
    return #list > 0 and table.concat(list, ", ") or nil
end

-- Marked first and ended then: a fence moves the pg_control of what is marked aside. Without an
-- epoch file it is a copy that cannot be started.
local function seal(ctx, row, look)
    local word = look.word
    if not is_of(word, row, look.sysid) then
        return nil, mr.error("refused", "something runs there that does not say whose it is",
            { instance = cluster.name(row), hint = "stop it, then run moonrise recoverseg" })
    elseif not (word.epoch and word.epoch.valid) then
        return true
    end
    local ok, err = ctx.agents:order(row, "mark",
        { epoch = look.epoch, reason = "it has been recovered to another place" },
        { timeout_ms = ORDER_MS })
    if ok then
        ok, err = ctx.agents:order(row, "fence",
            { epoch = look.epoch, step = agents.steps.mark + 1 }, { timeout_ms = ORDER_MS })
    end
    return ok, err
end

-- Whether nobody can start it: marked with its pg_control aside, or a copy without an epoch file.
local function is_sealed(word)
    local control, epoch = word.control or {}, word.epoch or {}
    if not epoch.valid then
        return word.stopped and word.kind == "half-made"
    end
    return word.stopped and epoch.marked and (control.aside or control.sysid == nil)
end

local function forget(ctx, place, token)
    local _, err = ctx.cat:call("place_forget", token, place.content, place.hostname,
        place.datadir)
    if err then
        return nil, err
    end
    return "forgotten"
end

-- What the pair is by its hosts' words: {mode, sysid, identities, primary}. Nothing is done to a
-- place that may be one of the pair's own by another name.
local function look_at_pair(ctx, content)
    local pair, err = ctx.cat:pair(content)
    if not pair then
        return nil, err
    end
    local look = { mode = pair.mirror and pair.mirror.mode, identities = {} }
    for _, inst in ipairs({ pair.primary, pair.mirror }) do
        local word
        word, err = ctx.agents:inspect(inst, nil, { timeout_ms = WORD_MS })
        if not word then
            return nil, err
        end
        look.identities[word.identity or ""] = true
        if inst == pair.primary then
            look.primary, look.sysid = inst, (word.control or {}).sysid
        end
    end
    if not look.sysid then
        return nil, mr.error("notfound", "its pg_control cannot be read: nobody knows whose it is",
            { instance = cluster.name(pair.primary) })
    end
    return look
end

-- Nothing there, or nothing of this instance's: it is its owner's.
local function is_nothing(word, place, look)
    return word.kind == "missing" or word.kind == "empty" or look.identities[word.identity]
        or (word.stopped and not is_of(word, place, look.sysid))
end

local function reserve(ctx, place, token)
    return ctx.cat:call("epoch_reserve", token, place.content,
        ("what dbid %d has left in %s:%s"):format(place.dbid, place.hostname, place.datadir))
end

-- A copy that was to be a mirror had a slot of its own; one that somebody makes now has it.
local function drop_slot(ctx, place, look)
    local busy, err = busy_places.of_others(ctx, place.content)
    if not busy or #busy > 0 then
        return busy and true, err
    end
    return ctx.agents:order(look.primary, "slot", { epoch = look.epoch, create = false,
        name = instance.next_slot_name(place) }, { timeout_ms = ORDER_MS })
end

local function remove(ctx, place, token, look)
    local row, stays = row_of(place), outside(look.word, place.datadir)
    local removed, err = ctx.agents:order(row, "remove_datadir", { epoch = look.epoch,
        replaced = true, sysid = look.sysid, fence = true }, { timeout_ms = 0 })
    if not removed and err.code == "refused" then
        term.warn("%s: what it has left there stays: %s", cluster.name(row), tostring(err))
        return forget(ctx, place, token)
    elseif not removed then
        return nil, err
    end
    local dropped
    dropped, err = drop_slot(ctx, place, look)
    if not dropped then
        return nil, err
    end
    ctx.cat:journal("place", { content = place.content, dbid = place.dbid,
        text = ("%s was removed: its successor is in sync%s"):format(cluster.name(row),
            stays and "; what it had outside stays: " .. stays or "") })
    return forget(ctx, place, token)
end

-- Whether it is still nobody's: whoever copies to it has an epoch of his own, and ours is higher
-- when he has taken it before us.
local function is_free(ctx, place)
    local list, err = ctx.cat:left_places()
    for _, other in ipairs(list or {}) do
        if other.hostname == place.hostname and other.datadir == place.datadir then
            return true
        end
    end
    return nil, err or mr.error("busy", "somebody copies to it, or it is gone")
end

-- What is there is this instance's, or runs and does not say whose it is.
local function settle_found(ctx, place, token, look)
    local goes = look.mode == "s"
    if not goes and is_sealed(look.word) then
        return "sealed"
    end
    local err, ok
    look.epoch, err = reserve(ctx, place, token)
    if look.epoch then
        ok, err = is_free(ctx, place)
    end
    if ok then
        ok, err = seal(ctx, row_of(place), look)
    end
    if not ok then
        return nil, err
    end
    if not goes then
        return "sealed"
    end
    return remove(ctx, place, token, look)
end

--- Does what can be done about one place. The caller may act on its content.
---@param ctx table {cat, agents}
---@param place LeftPlace
---@param token? integer the content's lease; nil for the watcher
---@return "sealed"|"forgotten"|nil done sealed: it goes when the pair is in sync
---@return Error? err code "connect" when its host does not answer
function M.settle(ctx, place, token)
    local word, err = ctx.agents:inspect(row_of(place), nil, { timeout_ms = WORD_MS })
    local look
    if word then
        look, err = look_at_pair(ctx, place.content)
    end
    if not look then
        return nil, err
    elseif is_nothing(word, place, look) then
        return forget(ctx, place, token)
    end
    look.word = word
    return settle_found(ctx, place, token, look)
end

-- Nobody has to come back for these: the watcher sees to such a place, or somebody else does now.
local WAITS = { connect = true, timeout = true, busy = true }

-- -> how many were not done, and how many of these somebody has to see to
local function settle_each(ctx, places, token)
    local undone, problems = 0, 0
    for _, place in ipairs(places) do
        local done, err = M.settle(ctx, place, token)
        if not done then
            undone = undone + 1
            problems = problems + (WAITS[err.code] and 0 or 1)
            term.warn("%s, which it has left: %s", cluster.name(row_of(place)), tostring(err))
        elseif done == "sealed" then
            term.info("%s: its old directory is kept until it is in sync",
                cluster.name(row_of(place)))
        end
    end
    return undone, problems
end

local function places_of(ctx, content)
    local released, err = busy_places.release_orphans(ctx, content)
    if not released then
        term.debug("content %d: what a killed command held: %s", content, tostring(err))
    end
    local list, mine = ctx.cat:left_places(), {}
    for _, place in ipairs(list or {}) do
        if place.content == content then
            table.insert(mine, place)
        end
    end
    return mine
end

--- Sees to the places of a content, under its lease, and warns of what cannot be done now.
---@param ctx table
---@param content integer
---@param token integer
---@return integer undone
function M.of_content(ctx, content, token)
    local undone = settle_each(ctx, places_of(ctx, content), token)
    return undone
end

--- Sees to the places that are left at the beginning of a run: what others hold is theirs, and
--- whom pg_hba.conf lets in follows the catalog.
---@param ctx table
---@param contents table<integer, boolean>
---@return integer problems somebody has to come back for
function M.of_contents(ctx, contents)
    local problems = 0
    for content in pairs(contents) do
        local ok, err = hold.content(ctx, content, "recover", "left places", function(lease)
            local followed, problem = hba.follow(ctx, content, lease.token)
            local _, count = settle_each(ctx, places_of(ctx, content), lease.token)
            problems = problems + count
            return followed, problem
        end)
        if not ok then
            problems = problems + (WAITS[err.code] and 0 or 1)
            term.warn("content %d: what it has left is not seen to: %s", content, tostring(err))
        end
    end
    return problems
end

return M
