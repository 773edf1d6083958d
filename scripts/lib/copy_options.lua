--- Options that commands share which work on several instances at once.
local tablespaces = require("lib.tablespaces")

local M = {}

local SEQUENTIAL = { key = "sequential", short = "s", long = "sequential",
    help = "progress as one line after another" }
local NO_PROGRESS = { key = "no_progress", long = "no-progress", help = "no progress" }

--- How their progress is shown.
---@type Option[]
M.progress = { SEQUENTIAL, NO_PROGRESS }

--- Of those that copy: also how fast, and where tablespaces go.
---@type Option[]
M.copies = {
    { key = "max_rate", long = "max-rate", arg = "SIZE", kind = "size", min = 1,
      help = "largest number of bytes a second that all copies together read from their sources" },
    { key = "max_rate_host", long = "max-rate-host", arg = "SIZE", kind = "size", min = 1,
      help = "the same for the copies from and to any one host" },
    tablespaces.option, SEQUENTIAL, NO_PROGRESS,
}

return M
