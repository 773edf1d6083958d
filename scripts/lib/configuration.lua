--- What a copy gets of its source's configuration, which the data directory may not hold.
---
--- A target with its configuration elsewhere keeps it, and gets what no standby may have less of
--- than its primary. One that has it among its data gets the source's, wherever the source has it.
local adopt_settings = require("lib.adopt_settings")
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local term = require("lib.term")

local M = {}

local function needs(ctx, source)
    local columns = {}
    for i, name in ipairs(adopt_settings.AT_LEAST_THE_PRIMARYS) do
        columns[i] = ("current_setting('%s') as %s"):format(name, name)
    end
    return instance.ask(ctx.env, source, "select " .. table.concat(columns, ", "))
end

-- Without these files the server does not start, however long the copy took.
local function warn_of_tls(ctx, tls, target)
    local ok, err = ctx.agents:call(target.hostname, "tls",
        { cert = tls.cert, key = tls.key, ca = tls.ca, names = {} })
    if not ok then
        term.warn("%s: it has ssl on, as its primary has, and would not start with these files: %s",
            cluster.name(target), err.message)
    end
end

--- Adds to the arguments of `recover` what its target needs.
---@param ctx table {env, agents}
---@param args table agent.h, recover; with `settings`
---@param pair {source: table, target: table}
---@param word table the host's word about the target; {} where nothing is yet
---@return boolean? ok
---@return Error? err
function M.add(ctx, args, pair, word)
    if word.config_dir then
        local row, err = needs(ctx, pair.source)
        for name, value in pairs(row or {}) do
            args.settings[name] = value
        end
        return row and true, err
    end
    if word.lost_config_dir then
        term.warn("%s: its configuration in %s is not used any more: moonrise.files, which names "
            .. "it, is gone from its directory; it gets a copy of its primary's, among its data",
            cluster.name(pair.target), word.lost_config_dir)
    end
    local files, err = ctx.agents:configuration(pair.source)
    if not files then
        return nil, err
    end
    args.configuration = files.config and files or nil
    if files.tls then
        warn_of_tls(ctx, files.tls, pair.target)
    end
    return true
end

return M
