--- Virtual time: things happen in the order of their moments, and no real time passes.
local M = {}

local Clock = {}
Clock.__index = Clock

--- A clock at moment 0, in milliseconds.
---@return table clock {now}
function M.new()
    return setmetatable({ now = 0, heap = {}, size = 0, made = 0 }, Clock)
end

local function before(a, b)
    return a.at < b.at or (a.at == b.at and a.number < b.number)
end

local function up(heap, i)
    while i > 1 do
        local parent = math.floor(i / 2)
        if not before(heap[i], heap[parent]) then
            return
        end
        heap[i], heap[parent] = heap[parent], heap[i]
        i = parent
    end
end

local function down(heap)
    local i = 1
    while true do
        local least = i
        for child = 2 * i, 2 * i + 1 do
            if heap[child] and before(heap[child], heap[least]) then
                least = child
            end
        end
        if least == i then
            return
        end
        heap[i], heap[least] = heap[least], heap[i]
        i = least
    end
end

--- Has fn() called so many milliseconds from now.
---@param ms number
---@param fn function
---@return table event event.off = true withdraws it
function Clock:after(ms, fn)
    self.made, self.size = self.made + 1, self.size + 1
    local event = { at = self.now + math.max(0, ms), number = self.made, fn = fn }
    self.heap[self.size] = event
    up(self.heap, self.size)
    return event
end

--- Lets time pass until a moment.
---@param moment number
function Clock:run(moment)
    local heap = self.heap
    while heap[1] and heap[1].at <= moment do
        local event = heap[1]
        heap[1] = heap[self.size]
        heap[self.size] = nil
        self.size = self.size - 1
        down(heap)
        if not event.off then
            self.now = event.at
            event.fn()
        end
    end
    self.now = math.max(self.now, moment)
end

return M
