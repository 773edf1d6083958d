--- `state -Q`: what the catalog says, nobody else is asked. Pure.
local judge = require("lib.state.judge")
local sheet = require("lib.state.sheet")

local M = {}

local RULE = 58

local function down_list(segments)
    local list = sheet.new({ arrows = false })
    list:row({ "Down Segment", "Datadir", "Port" })
    for _, inst in ipairs(segments) do
        list:row({ inst.hostname, inst.datadir, inst.port })
    end
    return list:lines()
end

--- The view's lines.
---@param facts StateFacts
---@return StateLine[]
function M.lines(facts)
    local up, down = 0, {}
    for _, role in ipairs({ "p", "m" }) do
        for _, inst in ipairs(judge.preferring(facts, role)) do
            if inst.status == "u" then
                up = up + 1
            else
                table.insert(down, inst)
            end
        end
    end
    local out = sheet.new({ indent = "" })
    out:text("-Quick Greenplum database status from Coordinator instance only")
    out:rule(RULE)
    -- Padded as if both lines were there, as gpstate does.
    out:pair("# of up segments, from configuration table  ", up)
    if #down > 0 then
        out:pair("# of down segments, from configuration table", #down)
    end
    local lines = out:lines()
    if #down > 0 then
        sheet.append(lines, down_list(down))
    end
    table.insert(lines, sheet.info(("-"):rep(RULE)))
    return lines
end

return M
