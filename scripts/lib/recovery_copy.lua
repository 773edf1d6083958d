--- The copy of a recovery: by which type, what the target's agent is told, and having it made.
local configuration = require("lib.configuration")
local instance = require("lib.instance")
local merged = require("lib.merged")
local quiet = require("lib.quiet")
local relay = require("lib.relay")

local M = {}

---@class CopyOptions
---@field progress? function
---@field max_rate? number
---@field tablespaces? table
---@field accept_foreign? boolean
---@field maker? string
---@field beside? boolean the mirror goes on at its old place: the copy has a slot of its own, and
--- listens nowhere

--- The cheapest type that makes the target's directory what it shall be.
---@param failed Failed
---@return "start"|"differential"|"full"
function M.cheapest(failed)
    return failed.possible.start and "start" or failed.word.kind == "datadir"
        and failed.possible.differential and "differential" or "full"
end

-- The places of those of the source's tablespaces that are sent elsewhere.
local function mapped(spaces, mapping)
    local list = {}
    for _, space in ipairs(spaces or {}) do
        local to = mapping and mapping[space.path]
        if to then
            table.insert(list, { oid = space.oid, target = to })
        end
    end
    return #list > 0 and list or nil
end

-- What the agent is told of a copy (agent.h, recover).
local function args_of(ctx, failed, kind, epoch, options)
    local target, source = failed.target, failed.source
    local spec = instance.standby_spec(ctx.env, target, source)
    if options.beside then
        spec.slot, spec.listen = instance.next_slot_name(target), ""
        spec.settings.primary_slot_name = spec.slot
    end
    return merged(spec, {
        epoch = epoch,
        type = kind,
        sysid = failed.source_word.control.sysid,
        source = instance.recovery_source(ctx.env, target, source),
        start = true,
        accept_foreign = options.accept_foreign or false,
        maker = options.maker,
        max_rate = options.max_rate or 0,
        tablespaces = mapped(failed.source_word.tablespaces, options.tablespaces),
    })
end

--- Stops what is left of the target, and has its source copied there.
---@param ctx table {env, agents}
---@param failed Failed
---@param kind "differential"|"full"
---@param epoch integer
---@param options CopyOptions
---@return table? numbers
---@return Error? err
function M.make(ctx, failed, kind, epoch, options)
    local ok, err = quiet.stop(ctx, failed.target, failed.word, epoch)
    if not ok then
        return nil, err
    end
    local args = args_of(ctx, failed, kind, epoch, options)
    ok, err = configuration.add(ctx, args, failed, failed.word)
    if not ok then
        return nil, err
    end
    return relay.recover(ctx, failed.target, failed.source, args, options.progress)
end

return M
