--- The files of a source tree, read once: what the checks look at.

local M = {}
local Tree = {}
Tree.__index = Tree

local function lines_of(text)
    local lines = {}
    for line in (text:gsub("\n$", "") .. "\n"):gmatch("(.-)\n") do
        lines[#lines + 1] = line
    end
    return lines
end

local function quote(text)
    return "'" .. text:gsub("'", "'\\''") .. "'"
end
M.quote = quote

--- Runs a shell command in a directory.
---@param dir string
---@param command string
---@return string output standard output and error together
---@return boolean ok whether it ended with code 0
function M.shell(dir, command)
    local pipe = assert(io.popen("cd " .. quote(dir) .. " && { " .. command .. "; } 2>&1; echo $?"))
    local output = pipe:read("*a")
    pipe:close()
    local text, code = output:match("^(.-)(%d+)\n$")
    return text, code == "0"
end

--- Opens the tree whose top is `root`; build/ and .git are no part of it.
---@param root string
---@return table tree
function M.open(root)
    local tree = setmetatable({ root = root, names = {}, texts = {} }, Tree)
    local listing = M.shell(root,
        "find . -path ./.git -prune -o -path ./build -prune -o -type f -print")
    for name in listing:gmatch("%./([^\n]+)\n") do
        tree.names[#tree.names + 1] = name
    end
    table.sort(tree.names)
    return tree
end

--- Names of the files that match any of the patterns, sorted.
---@param ... string Lua patterns
---@return string[]
function Tree:match(...)
    local found = {}
    for _, name in ipairs(self.names) do
        for _, pattern in ipairs({ ... }) do
            if name:match(pattern) then
                found[#found + 1] = name
                break
            end
        end
    end
    return found
end

---@param name string
---@return string
function Tree:text(name)
    if not self.texts[name] then
        local file = assert(io.open(self.root .. "/" .. name, "rb"))
        self.texts[name] = file:read("*a")
        file:close()
    end
    return self.texts[name]
end

---@param name string
---@return string[]
function Tree:lines(name)
    return lines_of(self:text(name))
end

--- Names directly under the top, sorted: files and folders alike.
---@return string[]
function Tree:top()
    local seen, top = {}, {}
    for _, name in ipairs(self.names) do
        local first = name:match("^[^/]+")
        if not seen[first] then
            seen[first] = true
            top[#top + 1] = first
        end
    end
    return top
end

return M
