--- Lines as gpstate draws them: columns padded to their widest value over the whole sheet, rows
--- that warn marked with arrows at the end. Pure.
local M = {}

local Sheet = {}
Sheet.__index = Sheet

local GAP = "   "
local ARROWS = "<<<<<<<<"

---@class StateLine
---@field level "info"|"warn"
---@field text string

--- A new sheet; `options.indent` is what stands before each row (default three blanks),
--- `options.arrows` is false where warnings are not marked.
---@param options? {indent: string?, arrows: boolean?}
---@return table sheet
function M.new(options)
    options = options or {}
    return setmetatable({ rows = {}, indent = options.indent or GAP,
                          arrows = options.arrows ~= false }, Sheet)
end

--- Adds a row of cells.
---@param cells any[]
---@param warn? boolean
function Sheet:row(cells, warn)
    local texts = {}
    for i, cell in ipairs(cells) do
        texts[i] = tostring(cell)
    end
    table.insert(self.rows, { cells = texts, warn = warn and true or false })
end

--- Adds `label = value`, as two columns.
---@param label string
---@param value any
---@param warn? boolean
function Sheet:pair(label, value, warn)
    self:row({ label, "= " .. tostring(value) }, warn)
end

--- Adds a line that is as it is, outside of the columns.
---@param text string
---@param warn? boolean
function Sheet:text(text, warn)
    table.insert(self.rows, { text = text, warn = warn and true or false })
end

--- Adds a separator of `width` dashes.
---@param width integer
function Sheet:rule(width)
    self:text(("-"):rep(width))
end

local function widths_of(rows)
    local widths = {}
    for _, row in ipairs(rows) do
        for i, cell in ipairs(row.cells or {}) do
            -- A line of one cell is a heading, which no column has to make room for.
            if #row.cells > 1 then
                widths[i] = math.max(widths[i] or 0, #cell)
            end
        end
    end
    return widths
end

local function draw(sheet, row, widths)
    local cells = {}
    for i, cell in ipairs(row.cells) do
        cells[i] = cell .. (" "):rep((widths[i] or 0) - #cell)
    end
    if row.warn and sheet.arrows then
        for i = #cells + 1, #widths do
            cells[i] = (" "):rep(widths[i])
        end
        table.insert(cells, ARROWS)
    end
    local text = sheet.indent .. table.concat(cells, GAP)
    -- "[WARNING]:-" is three characters longer than "[INFO]:-": columns stay under one another.
    if row.warn and text:sub(1, #GAP) == GAP then
        text = text:sub(#GAP + 1)
    end
    return (text:gsub("%s+$", ""))
end

--- The sheet's lines.
---@return StateLine[]
function Sheet:lines()
    local widths, lines = widths_of(self.rows), {}
    for _, row in ipairs(self.rows) do
        table.insert(lines, { level = row.warn and "warn" or "info",
                              text = row.text or draw(self, row, widths) })
    end
    return lines
end

--- Appends lines to lines.
---@param lines StateLine[]
---@param more StateLine[]
---@return StateLine[] lines
function M.append(lines, more)
    for _, line in ipairs(more) do
        table.insert(lines, line)
    end
    return lines
end

---@param text string
---@return StateLine
function M.info(text)
    return { level = "info", text = text }
end

---@param text string
---@return StateLine
function M.warn(text)
    return { level = "warn", text = text }
end

return M
