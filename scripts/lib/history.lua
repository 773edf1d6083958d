--- Whether a mirror and its primary have one history: content, not a number (SAFETY.md, rule 9).
---
--- A mirror's pg_control holds a copy of the last checkpoint of its primary that it has replayed; a
--- server that has run as a primary since begins with one of its own. The primary's host compares
--- it with the WAL that the primary has.
local M = {}

--- Adds to a word about a mirror whether its last checkpoint is in its primary's WAL:
--- word.same_history is true, false, or nil where that cannot be told (the WAL has been removed, or
--- the primary's host does not answer).
---@param agents table the set of agents
---@param word table the host's word about the mirror
---@param primary table the primary's row
---@param options? {timeout_ms: number?}
---@return table word
function M.compare(agents, word, primary, options)
    local control = word.control
    word.same_history = nil
    if word.kind == "datadir" and control and control.checkpoint_sum then
        local told = agents:history(primary, control.checkpoint, options)
        if told and told.known then
            word.same_history = told.checkpoint_sum == control.checkpoint_sum
        end
    end
    return word
end

return M
